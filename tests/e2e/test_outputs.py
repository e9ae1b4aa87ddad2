"""Every kind of output, from a real kernel to a peer's document, and the same at a peer that joins late."""

import io
import re
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
import trio
from PIL import Image

from sync.core.notebook_schema import NotebookSchema
from sync.core.runtime_reading import read_runtime
from tests.fakes.served_daemon import Opened, ServedDaemon
from tests.fakes.thin_peer import ThinPeer, open_thin_peer

CLEAR = "from IPython.display import clear_output\n"


@pytest.fixture(scope="module")
def opened(daemon: ServedDaemon) -> Opened:
    """One notebook, and one kernel, for all tests here: each has cells of its own."""
    return trio.run(daemon.open)


@asynccontextmanager
async def watching(daemon: ServedDaemon, opened: Opened) -> AsyncIterator[ThinPeer]:
    """A peer that was there; at the end one that joins late must have the same document."""
    async with open_thin_peer(daemon, opened) as peer:
        yield peer
        await peer.settle()
        async with open_thin_peer(daemon, opened) as late:
            await late.settle()
            assert read_runtime(late.runtime.replica) == read_runtime(peer.runtime.replica)


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def text_of(outputs: list[dict[str, Any]]) -> str:
    return "".join(output.get("text", "") for output in outputs)


async def text_is(peer: ThinPeer, cell_id: str, text: str) -> None:
    """Waits until a cell's text is this one."""
    await peer.shows(cell_id, lambda outputs: text_of(outputs) == text)


async def test_outputs_are_in_the_order_in_which_they_came(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        cell_id = peer.add_cell(
            "import sys\nprint('out', flush=True)\nprint('err', file=sys.stderr, flush=True)\n"
            "print('out again')\ndisplay('shown')\n'result'"
        )
        assert await peer.run(cell_id) == "done"
        count = peer.read("cells", cell_id, "execution_count")
        assert isinstance(count, int)
        assert await peer.outputs(cell_id) == [
            stream("out\n"),
            stream("err\n", "stderr"),
            stream("out again\n"),
            {"output_type": "display_data", "data": {"text/plain": "'shown'"}, "metadata": {}},
            {
                "output_type": "execute_result",
                "data": {"text/plain": "'result'"},
                "metadata": {},
                "execution_count": count,
            },
        ]


async def test_a_progress_bar_is_one_line(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        cell_id = peer.add_cell("from tqdm import tqdm\nfor _ in tqdm(range(200), mininterval=0, ascii=True): pass")
        await peer.run(cell_id)
        [bar] = await peer.outputs(cell_id)
        assert bar["name"] == "stderr"
        assert re.fullmatch(r"100%\|#+\| 200/200 \[[^\n]*\]\n", bar["text"])
        for state in peer.states(cell_id):
            assert len(state) <= 1
            assert all("".join(output["text"]).count("%|") <= 1 for output in state)


async def test_what_a_terminal_does_with_a_line_is_done(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        source = (
            "print('12345\\r67')\nprint('abc\\b\\bX')\nprint('gone\\r\\x1b[Kleft', flush=True)\n"
            "print('\\x1b[31mred\\x1b[0m')"
        )
        assert text_of(await peer.show(source)) == "67345\naXc\nleft\n\x1b[31mred\x1b[0m\n"


async def test_long_lines_blank_lines_and_trailing_newlines_survive(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        source = (
            "print('x' * 100_000)\nprint()\nprint()\nprint('é' * 2000, end='')\nprint('\\n\\nlast\\n\\n\\n', end='')\n"
        )
        assert await peer.show(source) == [stream("x" * 100_000 + "\n\n\n" + "é" * 2000 + "\n\nlast\n\n\n")]
        assert await peer.show("print('no newline', end='')") == [stream("no newline")]


async def test_clear_output_clears_at_once(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        assert await peer.show(f"{CLEAR}print('old')\nclear_output()\nprint('new')") == [stream("new\n")]
        cell_id = peer.add_cell(f"{CLEAR}print('old', flush=True)\ninput()\nclear_output()\ninput()\nprint('new')")
        execution_id = await peer.execute(cell_id)
        await text_is(peer, cell_id, "old\n")
        await answer(peer, "")
        await text_is(peer, cell_id, "")
        await answer(peer, "")
        assert await peer.done(execution_id) == "done"
        assert await peer.outputs(cell_id) == [stream("new\n")]


async def test_a_waiting_clear_is_one_commit_with_the_next_output(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        cell_id = peer.add_cell(
            f"{CLEAR}import time\n"
            "for i in range(40):\n    clear_output(wait=True)\n    print(i, flush=True)\n    time.sleep(0.02)"
        )
        await peer.run(cell_id)
        assert await peer.outputs(cell_id) == [stream("39\n")]
        states = peer.states(cell_id)
        first_shown = next(index for index, state in enumerate(states) if state)
        assert all(states[first_shown:])
        assert all(len(state) == 1 for state in states[first_shown:])
        # A commit every 16 ms at most, an output every 20: most are to be seen.
        assert len(states) > 10


async def test_a_waiting_clear_with_nothing_next_clears_nothing(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        cell_id = peer.add_cell(f"{CLEAR}print('kept')\nclear_output(wait=True)")
        await peer.run(cell_id)
        assert await peer.outputs(cell_id) == [stream("kept\n")]
        # Another cell's output is not the next one of this cell; and a rerun begins with nothing to clear.
        await peer.show("print('elsewhere')")
        assert await peer.outputs(cell_id) == [stream("kept\n")]
        await peer.run(cell_id)
        assert await peer.outputs(cell_id) == [stream("kept\n")]


async def test_a_display_is_updated_wherever_it_is_shown(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        first = peer.add_cell("handle = display('one', display_id='shared')\nprint('beside')")
        second = peer.add_cell("display('two', display_id='shared');")
        third = peer.add_cell("handle.update('three')")
        for cell_id in (first, second, third):
            await peer.run(cell_id)
        shown = {"output_type": "display_data", "data": {"text/plain": "'three'"}, "metadata": {}}
        assert await peer.outputs(first) == [shown, stream("beside\n")]
        assert await peer.outputs(second) == [shown]
        assert await peer.outputs(third) == []
        before = [manifest["output_id"] for manifest in peer.manifests(first)]
        await peer.show("handle.update('big' * 1000)", third)
        assert (await peer.outputs(first))[0]["data"]["text/plain"] == repr("big" * 1000)
        assert [manifest["output_id"] for manifest in peer.manifests(first)] == before


async def test_updates_of_one_batch_leave_the_last(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        cell_id = peer.add_cell(
            "handle = display(-1, display_id=True)\nfor i in range(200): handle.update(i)\ndisplay('after')"
        )
        await peer.run(cell_id)
        assert [output["data"]["text/plain"] for output in await peer.outputs(cell_id)] == ["199", "'after'"]
        numbers = [int(state[0]["data"]["text/plain"]) for state in peer.states(cell_id) if state]
        assert numbers == sorted(numbers)


async def test_an_error_has_its_traceback(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        cell_id = peer.add_cell("print('before')\ndef deep(n):\n    return deep(n - 1) if n else 1 / 0\ndeep(5)")
        assert await peer.run(cell_id) == "error"
        before, error = await peer.outputs(cell_id)
        assert before == stream("before\n")
        assert (error["ename"], error["evalue"]) == ("ZeroDivisionError", "division by zero")
        assert len(error["traceback"]) > 5
        assert "deep" in "".join(error["traceback"])
        # It is too long for the document, so it went through the blob store.
        assert "blob" in peer.manifests(cell_id)[1]["traceback"]
        assert await peer.run(peer.add_cell("raise SystemExit")) == "error"


async def test_an_image_is_fetched_as_its_bytes(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        cell_id = peer.add_cell(
            "from PIL import Image\nimage = Image.linear_gradient('L').rotate(30).convert('RGB')\ndisplay(image)"
        )
        assert await peer.run(cell_id) == "done"
        [manifest] = peer.manifests(cell_id)
        value = manifest["data"]["image/png"]
        assert value["media_type"] == "image/png"
        async with daemon.client() as client:
            answer = (await client.get(f"/blobs/{value['blob']}")).raise_for_status()
        assert answer.headers["content-type"] == "image/png"
        assert len(answer.content) == value["size"]
        with Image.open(io.BytesIO(answer.content)) as image:
            assert (image.format, image.size) == ("PNG", (256, 256))
        [output] = await peer.outputs(cell_id)
        assert b64decode(output["data"]["image/png"]) == answer.content


async def test_help_is_an_output_of_its_cell(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        [output] = await peer.show("print?")
        assert output["output_type"] == "display_data"
        assert "Prints the values to a stream" in output["data"]["text/plain"]


async def test_big_json_and_many_mime_types_arrive_whole(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        cell_id = peer.add_cell(
            "display({'application/json': {'rows': [{'n': n, 'text': 'é' * 20} for n in range(5000)]},"
            " 'text/html': '<b>' + 'x' * 5000, 'text/plain': 'short',"
            " 'application/vnd.test+json': {'a': [1, None, {'b': 2.5}]}}, raw=True, metadata={'width': 10})"
        )
        await peer.run(cell_id)
        [output] = await peer.outputs(cell_id)
        assert output["data"]["application/json"] == {"rows": [{"n": n, "text": "é" * 20} for n in range(5000)]}
        assert output["data"]["text/html"] == "<b>" + "x" * 5000
        assert output["data"]["text/plain"] == "short"
        assert output["data"]["application/vnd.test+json"] == {"a": [1, None, {"b": 2.5}]}
        assert output["metadata"] == {"width": 10}
        data = peer.manifests(cell_id)[0]["data"]
        assert data["application/json"]["media_type"] == "application/json"
        assert "json" in data["application/vnd.test+json"]


async def test_a_thread_prints_after_its_cell_ended(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        cell_id = peer.add_cell("import threading\nthreading.Timer(0.3, print, ['late']).start()\nprint('early')")
        await peer.run(cell_id)
        await text_is(peer, cell_id, "early\nlate\n")


async def test_a_thread_prints_while_completions_are_asked_for(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        log = peer.read("kernel_log")
        ticks = "".join(f"tick {n}\n" for n in range(40))
        cell_id = peer.add_cell(
            "import threading, time\ndef tick():\n    for n in range(40):\n        print('tick', n)\n        time.sleep(0.02)\n"
            "threading.Thread(target=tick).start()"
        )
        await peer.run(cell_id)
        for _ in range(10):
            answer = await peer.request("complete", code="thread", cursor_pos=6)
            assert "threading" in answer["matches"]
        await text_is(peer, cell_id, ticks)
        assert peer.read("kernel_log") == log


async def test_an_asyncio_task_prints_into_the_cell_that_made_it(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        cell_id = peer.add_cell(
            "import asyncio\ngo = asyncio.Event()\nasync def later():\n    await go.wait()\n    print('from the task')\n"
            "task = asyncio.create_task(later())"
        )
        await peer.run(cell_id)
        assert await peer.show("go.set()\nawait asyncio.sleep(0)\nprint('here')") == [stream("here\n")]
        await text_is(peer, cell_id, "from the task\n")


async def test_input_is_answered_once(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        cell_id = peer.add_cell("name = input('Who? ')\nprint('hello', name)")
        execution_id = await peer.execute(cell_id)
        asked = await peer.wait(lambda: peer.read("kernel", "input_request"))
        assert asked["execution_id"] == execution_id
        assert (asked["prompt"], asked["password"]) == ("Who? ", False)
        answers = {name: peer.ask("input_reply", request_id=asked["request_id"], value=name) for name in ("Ada", "Bob")}
        for answered in answers.values():
            await answered.arrived.wait()
        [taken] = [name for name, answered in answers.items() if "result" in answered.response]
        [error] = [answered.response["error"] for answered in answers.values() if "error" in answered.response]
        assert (error["code"], error["data"]["reason"]) == (-32012, "no_input_pending")
        assert await peer.done(execution_id) == "done"
        assert peer.read("kernel", "input_request") is None
        assert text_of(await peer.outputs(cell_id)) == f"hello {taken}\n"


async def test_a_password_is_asked_for_as_one(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        execution_id = await peer.execute(peer.add_cell("import getpass\nlen(getpass.getpass('Key: '))"))
        assert (await answer(peer, "secret"))["password"] is True
        assert await peer.done(execution_id) == "done"


async def test_a_cell_that_waits_for_input_is_interrupted(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        execution_id = await peer.execute(peer.add_cell("input('never answered')"))
        asked = await peer.wait(lambda: peer.read("kernel", "input_request"))
        assert (await peer.request("interrupt"))["execution_id"] == execution_id
        assert await peer.done(execution_id) == "interrupted"
        assert peer.read("kernel", "input_request") is None
        refused = await peer.refusal("input_reply", request_id=asked["request_id"], value="too late")
        assert refused.reason == "no_input_pending"


async def test_what_others_do_meanwhile_leaves_an_input_open(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        cell_id = peer.add_cell("print(input())")
        execution_id = await peer.execute(cell_id)
        asked = await peer.wait(lambda: peer.read("kernel", "input_request"))
        queued = await peer.execute(peer.add_cell("1"))
        assert (await peer.request("cancel_execution", execution_id=queued))["status"] == "cancelled"
        assert await peer.done(queued) == "cancelled"
        assert peer.read("kernel", "input_request") == asked
        await answer(peer, "still here")
        assert await peer.done(execution_id) == "done"
        assert text_of(await peer.outputs(cell_id)) == "still here\n"


async def test_a_cell_is_run_again_while_it_runs(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        cell_id = peer.add_cell("display('first run')\ninput()\ndisplay('end of it')")
        first = await peer.execute(cell_id)
        await peer.wait(lambda: peer.read("kernel", "input_request"))
        peer.edit(cell_id, "display('second run')")
        second = await peer.execute(cell_id)
        assert peer.status(second) == "queued"
        assert peer.read("queue") == {"executing": first, "queued": [second]}
        assert peer.read("cells", cell_id, "execution_id") == first
        assert len(peer.manifests(cell_id)) == 1
        await answer(peer, "")
        assert await peer.done(first) == "done"
        assert await peer.done(second) == "done"
        assert [output["data"]["text/plain"] for output in await peer.outputs(cell_id)] == ["'second run'"]
        shown = [[output["data"]["text/plain"] for output in state] for state in peer.states(cell_id)]
        both = ["'first run'", "'end of it'"]
        assert both[:1] in shown
        # The clear belongs to the start of the second run: nothing of it is ever beside the first's.
        assert all(state in ([], both[:1], both, ["'second run'"]) for state in shown)


async def test_a_late_display_of_the_run_before_stays_out_of_the_next(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        cell_id = peer.add_cell("handle = display('old', display_id='reborn')")
        await peer.run(cell_id)
        await peer.show("print('another source')", cell_id)
        await peer.show("handle.update('of a display that is gone')")
        assert await peer.outputs(cell_id) == [stream("another source\n")]


async def test_the_file_has_all_of_it(daemon: ServedDaemon, opened: Opened) -> None:
    async with watching(daemon, opened) as peer:
        notebook = await daemon.file(opened)
        nbformat.validate(notebook)
        assert len(notebook["cells"]) > 10
        for cell in notebook["cells"]:
            shown = [
                {**output, "text": "".join(output["text"])} if "text" in output else output
                for output in cell["outputs"]
            ]
            assert _joined(shown) == await peer.outputs(cell["id"])


def _joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Text of a file, which may be lists of lines, as text."""

    def text(value: Any) -> Any:
        return "".join(value) if isinstance(value, list) and value and isinstance(value[0], str) else value

    return [
        {**output, "data": {mime: text(value) for mime, value in output["data"].items()}}
        if "data" in output
        else output
        for output in outputs
    ]


async def answer(peer: ThinPeer, value: str) -> dict[str, Any]:
    """Answers the input that is asked for next; what was asked."""
    asked: dict[str, Any] = await peer.wait(lambda: peer.read("kernel", "input_request"))
    await peer.request("input_reply", request_id=asked["request_id"], value=value)
    return asked


def cells(peer: ThinPeer) -> list[tuple[str, str]]:
    return [(cell.cell_id, cell.source) for cell in NotebookSchema.read_cells(peer.notebook.replica)]


async def test_load_takes_the_place_of_its_line_and_next_input_is_a_cell_below(
    daemon: ServedDaemon, tmp_path: Path
) -> None:
    loaded = tmp_path / "loaded.py"
    loaded.write_text("print('loaded')\n" + "# long\n" * 3_000)  # more than one slice
    line = f"%load {loaded}"
    async with daemon.opened() as opened, watching(daemon, opened) as peer:
        first, last = peer.add_cell(line), peer.add_cell("'last'")
        assert await peer.run(first) == "done"
        await peer.wait(lambda: cells(peer)[0] == (first, f"# {line}\n{loaded.read_text()}"))
        assert await peer.run(first) == "done"
        await text_is(peer, first, "loaded\n")

        peer.edit(first, "get_ipython().set_next_input('below = 1')")
        assert await peer.run(first) == "done"
        [_, (below, source), (behind, _)] = await peer.wait(lambda: len(cells(peer)) == 3 and cells(peer))
        assert (source, behind) == ("below = 1", last)
        assert await peer.run(below) == "done"


async def test_half_of_what_is_loaded_is_neither_saved_nor_executed(daemon: ServedDaemon, tmp_path: Path) -> None:
    loaded = tmp_path / "loaded.py"
    loaded.write_text("# long\n" * 10_000 + "print('whole')\n")
    async with daemon.opened() as opened, open_thin_peer(daemon, opened) as peer:
        cell_id = peer.add_cell(f"%load {loaded}")
        execution_id = await peer.execute(cell_id)
        assert await peer.done(execution_id) == "done"
        saving, again = peer.ask("save_notebook"), peer.ask("execute_cell", cell_id=cell_id)
        path = daemon.root / (await saving.result())["path"]
        assert nbformat.read(path, 4).cells[-1].source.endswith("print('whole')\n")
        assert await peer.done((await again.result())["execution_id"]) == "done"
        await text_is(peer, cell_id, "whole\n")


async def test_a_cell_that_was_edited_meanwhile_is_left_alone(daemon: ServedDaemon) -> None:
    async with daemon.opened() as opened, watching(daemon, opened) as peer:
        asking = peer.add_cell("input()\nget_ipython().set_next_input('instead', replace=True)")
        execution_id = await peer.execute(asking)
        asked = await peer.wait(lambda: peer.read("kernel", "input_request"))
        peer.edit(asking, "somebody's own words")
        await peer.settle()
        await peer.request("input_reply", request_id=asked["request_id"], value="")
        assert await peer.done(execution_id) == "done"
        await peer.wait(lambda: [source for _, source in cells(peer)] == ["somebody's own words", "instead"])
