"""Edits of the real stock client reach the daemon, its file and the other peers, from the very first on."""

from pathlib import Path

import trio

from tests.e2e.notebooks import Notebook, open_notebook
from tests.fakes import stock_peer
from tests.fakes.daemon_process import running_daemon
from tests.fakes.stock_peer import StockPeer

SOURCES = {"a": "x = 1"}
NEW_CELL = {
    "cell_type": {"$immutable": "code"},
    "position": {"$immutable": "Vabc"},
    "source": "print('new')",
    "metadata": {},
}


async def saved_source(notebook: Notebook, cell_id: str) -> str:
    """A cell's source in the .ipynb as the daemon gives it."""
    [source] = ["".join(cell["source"]) for cell in (await notebook.file())["cells"] if cell["id"] == cell_id]
    return source


async def test_the_first_edit_of_a_new_notebook_is_taken(tmp_path: Path) -> None:
    """A document of one change: with a capability list the stock client would send all of it, and be refused."""
    async with running_daemon(tmp_path) as daemon:
        opened = await daemon.open("new.ipynb", create=True)
        notebook = Notebook(daemon, opened["id"], opened["notebook"], opened["runtime"])
        async with notebook.joined() as peer, notebook.joined() as other:
            heads = await peer.change(notebook.url, stock_peer.put(["cells", "first"], NEW_CELL))
            await other.wait_heads(notebook.url, heads)
            assert await other.doc(notebook.url, ["cells", "first", "source"]) == "print('new')"
            await notebook.execute(peer, "first", notebook_heads=heads)
            assert await notebook.text(peer, "first") == "new\n"
            await notebook.settle(peer, other)
            assert await notebook.text(other, "first") == "new\n"
            assert await saved_source(notebook, "first") == "print('new')"
            assert (await peer.report(notebook.url))["error_frames"] == []


async def test_twenty_edits_made_offline_arrive_after_the_reconnect(tmp_path: Path) -> None:
    """Meanwhile the other side moved on too: both are in what everyone has then, the file included."""
    async with running_daemon(tmp_path) as daemon:
        notebook = await open_notebook(daemon, {**SOURCES, "b": "y = 1"})
        async with notebook.joined() as peer, notebook.joined() as other:
            await peer.disconnect()
            for number in range(20):
                await peer.change(notebook.url, stock_peer.splice(["cells", "a", "source"], 5, 0, f"\nline {number}"))
            await other.change(notebook.url, stock_peer.update_text(["cells", "b", "source"], "y = 2"))
            await other.change(notebook.url, stock_peer.splice(["cells", "a", "source"], 0, 0, "# other\n"))
            await notebook.execute(other, "a")
            await notebook.settle(other)
            await peer.reconnect()
            end = await notebook.settle(peer, other)
            source = "# other\nx = 1" + "".join(f"\nline {number}" for number in reversed(range(20)))
            for who in (peer, other):
                assert await who.doc(notebook.url, ["cells", "a", "source"]) == source
                assert await who.doc(notebook.url, ["cells", "b", "source"]) == "y = 2"
                assert await who.heads(notebook.url) == end["notebook_heads"]
                assert await who.heads(notebook.runtime) == end["heads"]
            assert await saved_source(notebook, "a") == source
            assert (await peer.report(notebook.url))["early"] == 0


async def test_two_clients_that_edit_one_source_at_once_converge_with_the_daemon(tmp_path: Path) -> None:
    """Insertions at the same places, deletions, a replaced text, astral characters: one text everywhere."""
    async with running_daemon(tmp_path) as daemon:
        notebook = await open_notebook(daemon, {"a": "the quick 🦊 jumps"})
        source = ["cells", "a", "source"]

        async def edit(peer: StockPeer, name: str) -> None:
            for number in range(25):
                await peer.change(notebook.url, stock_peer.splice(source, 4, 0, f"{name}{number}🦉"))
                await peer.change(notebook.url, stock_peer.splice(source, 0, 1))
                if number % 10 == 9:
                    text = await peer.doc(notebook.url, source)
                    await peer.change(notebook.url, stock_peer.update_text(source, f"{name} {text} {name}"))

        async with notebook.joined() as one, notebook.joined() as two:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(edit, one, "one")
                nursery.start_soon(edit, two, "two")
            end = await notebook.settle(one, two)
            assert await one.heads(notebook.url) == await two.heads(notebook.url) == end["notebook_heads"]
            text = await one.doc(notebook.url, source)
            assert await two.doc(notebook.url, source) == text
            assert await saved_source(notebook, "a") == text
            assert text.count("🦉") > 25
