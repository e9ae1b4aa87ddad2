"""What any JavaScript client may write and the Rust core panics on when it reads it: read around, and the notebook goes on."""

from pathlib import Path

import nbformat
import pytest

from tests.e2e.notebooks import open_notebook
from tests.fakes import stock_peer
from tests.fakes.daemon_process import running_daemon

COUNTER = {"$counter": 7}
FAR_DATE = {"$date": 8_640_000_000_000_000}  # the last that JavaScript knows, in the year 275760
MAPS = (["metadata"], ["cells", "a", "metadata"], ["cells", "a"], ["cells"], [])


@pytest.mark.parametrize("value", [COUNTER, FAR_DATE], ids=["counter", "far date"])
async def test_it_is_kept_in_the_document_and_left_out_of_the_view(tmp_path: Path, value: dict[str, int]) -> None:
    async with running_daemon(tmp_path) as daemon:
        notebook = await open_notebook(daemon, {"a": "print('ran')", "b": "print('b ran')"})
        async with notebook.joined() as author, notebook.joined() as other:
            for path in MAPS:
                await author.change(notebook.url, stock_peer.put([*path, "odd"], value))
            # In the place of what the daemon reads: the type, the source and the position of a cell.
            await author.change(
                notebook.url,
                *(stock_peer.put(["cells", "b", key], value) for key in ("source", "position")),
            )
            await notebook.settle(author, other)
            for path in MAPS:
                assert await other.doc(notebook.url, [*path, "odd"]) == value, "others see it"

            assert (await notebook.execute(other, "a"))["status"] == "done"
            await notebook.settle(other)
            assert await notebook.text(other, "a") == "ran\n"
            executions = (await notebook.ask(author, "run_all_cells"))["executions"]
            assert executions, "cells that read in part do no harm"
            for one in executions:  # or an output is not there yet when the file is written
                await author.wait_event(notebook.url, "execution_done", execution_id=one["execution_id"])

            await notebook.ask(author, "save_notebook")
            saved = nbformat.read(daemon.root / "test.ipynb", as_version=4)
            nbformat.validate(saved)
            cell = next(cell for cell in saved.cells if cell.id == "a")
            assert cell.source == "print('ran')"
            assert cell.outputs[0].text == "ran\n"
            assert "odd" not in cell.metadata
            assert "odd" not in saved.metadata

            await author.change(notebook.url, stock_peer.put(["cells", "b", "source"], "print('again')"))
            assert (await notebook.execute(author, "b"))["status"] == "done", "it can be overwritten"
            async with notebook.joined() as late:
                assert await late.doc(notebook.url, ["cells", "a", "odd"]) == value
            for peer in (author, other):
                assert (await peer.report(notebook.url))["error_frames"] == []


WRONG_TYPES = (
    (["cells", "a", "source"], 7),
    (["cells", "a", "metadata"], [1, {"deep": [None]}]),
    (["cells", "a", "cell_type"], "code\x00"),
    (["cells", "a", "position"], {"$bigint": "9223372036854775808"}),
    (["cells", "a", "attachments"], "none"),
    (["cells", "b", "position"], 1e308),
    (["cells", "b", "metadata", "text"], "half a pair: \ud800, and \u0000"),
    (["cells", "b", "metadata", "number"], 0.1),
    (["cells", "number"], 7),
    (["cells", "list"], []),
    (["cells", "x" * 65], {"cell_type": "code", "source": "an id that is too long"}),
    (["cells", "../../etc/passwd"], {"cell_type": "code", "source": "an id that is none"}),
    (["cells", "empty"], {}),
    (["metadata", "kernelspec"], 7),
    (["metadata"], "none"),
    (["cells"], 7),
    (["runtime"], 7),
    (["schema"], "two"),
)


async def test_whatever_stands_where_something_else_is_due_the_notebook_goes_on(tmp_path: Path) -> None:
    """One after the other, each beside a cell that runs and a file that is saved."""
    async with running_daemon(tmp_path) as daemon:
        notebook = await open_notebook(daemon, {"a": "1", "b": "print('b ran')", "c": "print('c ran')"})
        async with notebook.joined() as author, notebook.joined() as other:
            for path, value in WRONG_TYPES:
                await author.change(notebook.url, stock_peer.put(path, value))
                await notebook.settle(author, other)
                assert (await notebook.execute(other, "c"))["status"] == "done", path
                await notebook.ask(other, "save_notebook")
                nbformat.validate(nbformat.read(daemon.root / "test.ipynb", as_version=4))
            assert await other.doc(notebook.url, ["schema"]) == 1
            assert (await author.report(notebook.url))["error_frames"] == []


async def test_cells_without_a_position_get_one_when_nobody_edits(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        notebook = await open_notebook(daemon, {"a": "1"})
        async with notebook.joined() as author, notebook.joined() as other:
            cells = {"none": {}, "long": {"position": "1" * 65}, "number": {"position": 7}}
            for cell_id, keys in cells.items():
                await author.change(notebook.url, stock_peer.put(["cells", cell_id], {"cell_type": "code", **keys}))
            for peer in (other, author):
                positions = [
                    await peer.wait(notebook.url, f"/^[0-9A-Za-z]{{4,64}}$/.test(doc.cells.{cell_id}.position) && "
                                    f"String(doc.cells.{cell_id}.position)")
                    for cell_id in ("a", "long", "none", "number")
                ]  # fmt: skip
                assert positions == sorted(set(positions))
            assert (await author.report(notebook.url))["error_frames"] == []
