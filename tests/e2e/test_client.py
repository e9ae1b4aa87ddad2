"""The Python client, a real daemon and real kernels."""

import asyncio
import base64
import signal
import sys
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import nbformat
import pytest
import trio

from sync.client import (
    BlobRef,
    BlockingNotebook,
    ConnectionLost,
    Execution,
    NotebookError,
    RequestFailed,
    SyncTimeout,
    open_notebook,
)
from sync.client.blocking_events import BlockingEvents
from sync.core.identifiers import parse_automerge_url
from tests.fakes.daemon_process import DaemonProcess, running_daemon
from tests.fakes.tcp_proxy import Fault, wire_to

VIEWER = "a-viewers-token"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[DaemonProcess]:
    async with running_daemon(tmp_path, "--viewer-token", VIEWER) as daemon:
        yield daemon


def opened(daemon: DaemonProcess, **options: object):  # type: ignore[no-untyped-def]  # noqa: ANN201
    given = {"token": daemon.token, "path": "a.ipynb", "create": True, **options}
    return open_notebook(daemon.url, **given)  # type: ignore[arg-type]


async def test_cells_are_made_run_and_read(daemon: DaemonProcess) -> None:
    async with opened(daemon) as nb:
        cell = nb.add_cell("6 * 7")
        result = await (await cell.execute()).result()

        assert (result.status, result.execution_count) == ("done", 1)
        assert [(output.output_type, output.data) for output in result.outputs] == [
            ("execute_result", {"text/plain": "42"})
        ]
        assert cell.outputs == result.outputs
        assert cell.execution_count == 1
        await nb.wait_for(lambda: nb.kernel_status == "idle")
        assert nb.queue == {"executing": None, "queued": []}


async def test_what_runs_is_always_the_source_that_was_just_edited(daemon: DaemonProcess) -> None:
    async with opened(daemon) as nb:
        await (await nb.add_cell("log = []").execute()).result()
        cell = nb.add_cell()
        executions: list[Execution] = []
        for number in range(50):
            cell.edit(f"log.append({number})")
            executions.append(await cell.execute())
        cell.edit("log")
        shown = await (await cell.execute()).result()
        statuses = [(await execution.result()).status for execution in executions]

    assert statuses == ["done"] * 50
    assert shown.outputs[0].text.replace("\n", "") == str(list(range(50)))


async def test_outputs_of_all_kinds_come_with_their_blobs(daemon: DaemonProcess) -> None:
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(3000)).decode()
    source = f"""
import sys
from IPython.display import display
print("x" * 5000)
print("err", file=sys.stderr)
display({{"image/png": "{png}", "text/plain": "pic"}}, raw=True, metadata={{"width": 3}}, display_id="d")
def deep(n): return 1 / 0 if not n else deep(n - 1)
deep(10)
"""
    async with opened(daemon) as nb:
        cell = nb.add_cell(source)
        result = await (await cell.execute()).result()
        out, err, picture, error = result.outputs

        assert result.status == "error"
        assert (out.name, out.text) == ("stdout", "x" * 5000 + "\n")
        assert (err.name, err.text) == ("stderr", "err\n")
        assert picture.data == {"image/png": base64.b64decode(png), "text/plain": "pic"}
        assert (picture.metadata, picture.display_id) == ({"width": 3}, "d")
        assert (error.ename, error.evalue) == ("ZeroDivisionError", "division by zero")
        assert "deep" in error.text

        async with opened(daemon) as late:
            (seen,) = late.cells
            reference = seen.outputs[2].data["image/png"]
            assert isinstance(reference, BlobRef)
            assert await reference.read() == base64.b64decode(png)
            assert reference in seen.outputs[2].unloaded or not seen.outputs[2].unloaded
            await late.load_blobs()
            assert seen.outputs == result.outputs == await seen.load_outputs()


async def test_a_run_stops_at_the_first_error_or_goes_on(daemon: DaemonProcess) -> None:
    async with opened(daemon) as nb:
        for source in ("1", "", "1/0", "3"):
            nb.add_cell(source)
        nb.add_cell("# not run", "markdown")
        statuses = []
        for stop_on_error in (True, False):
            executions = await nb.run_all(stop_on_error=stop_on_error)
            statuses.append([(await execution.result()).status for execution in executions])

    assert statuses == [["done", "error", "cancelled"], ["done", "error", "done"]]


async def test_an_interrupt_a_restart_and_a_cancellation_end_what_they_meet(daemon: DaemonProcess) -> None:
    async with opened(daemon) as nb:
        cell = nb.add_cell("import time\nprint('on')\nany(time.sleep(0.1) for _ in range(600))")
        for end in (nb.interrupt, nb.restart):
            running, queued = await cell.execute(), await cell.execute()
            assert await nb.cancel(queued) == "cancelled"
            await nb.wait_for(lambda: [output.text for output in cell.outputs] == ["on\n"])
            await end()
            result = await running.result()
            assert (result.status, (await queued.result()).status) == ("interrupted", "cancelled")
        await nb.shutdown()
        await nb.wait_for(lambda: nb.kernel_status == "not_started")
        with pytest.raises(RequestFailed) as failed:
            await nb.interrupt()
        assert failed.value.reason == "no_kernel"
        assert (await nb.launch())["language"] == "python"


async def test_the_kernel_answers_questions(daemon: DaemonProcess) -> None:
    async with opened(daemon) as nb:
        await (await nb.add_cell("number = 7").execute()).result()
        completed = await nb.complete("number.bit_l")
        assert completed["matches"] in (["bit_length"], ["number.bit_length"])
        assert (await nb.inspect("number"))["found"]
        assert (await nb.is_complete("if x:"))["status"] == "incomplete"
        assert [line[2] for line in await nb.history(1)] == ["number = 7"]


async def test_input_is_asked_for_and_given(daemon: DaemonProcess) -> None:
    async with opened(daemon) as nb:
        execution = await nb.add_cell("input('name? ') * 2").execute()
        request = await nb.wait_for(lambda: nb.kernel.get("input_request"))
        assert (request["prompt"], request["password"]) == ("name? ", False)
        await nb.input_reply("ab")

        assert (await execution.result()).outputs[-1].text == "'abab'"


async def test_a_program_hears_events_with_their_state(daemon: DaemonProcess) -> None:
    async with opened(daemon) as nb:
        cell = nb.add_cell("print(1)")
        events = nb.events()
        execution = await cell.execute()
        heard = []
        async for event in events:
            heard.append(event)
            if event.method == "execution_done":
                assert [output.text for output in cell.outputs] == ["1\n"]
                break

        methods = [event.method for event in heard]
        assert methods.index("execution_started") < methods.index("execution_done")
        assert heard[-1].params["execution_id"] == execution.id
        assert [event.seq for event in heard] == list(range(heard[0].seq, heard[0].seq + len(heard)))


async def test_two_clients_order_edit_and_delete_cells_and_agree(daemon: DaemonProcess) -> None:
    async with opened(daemon) as one, opened(daemon) as two:
        a, b = one.add_cell("a"), one.add_cell("b")
        c = one.add_cell("c", before=b)
        d = one.add_cell("# d", "markdown", after=a.id, metadata={"tags": ["x"]})
        await one.confirm_sync()
        await two.confirm_sync()
        assert [cell.source for cell in two.cells] == ["a", "# d", "c", "b"]
        assert (two.cell(d.id).cell_type, two.cell(d.id).metadata) == ("markdown", {"tags": ["x"]})

        two.cell(b.id).move(before=a.id)
        two.cell(c.id).edit("two: c")
        c.edit("c :one")
        d.delete()
        await one.confirm_sync()
        await two.confirm_sync()
        await one.confirm_sync()
        assert [cell.id for cell in one.cells] == [cell.id for cell in two.cells] == [b.id, a.id, c.id]
        assert c.source == two.cell(c.id).source == "two: c :one"
        with pytest.raises(NotebookError, match="deleted"):
            _ = d.source
        with pytest.raises(RequestFailed) as failed:
            await d.execute()
        assert failed.value.reason == "not_found"


async def test_long_sources_arrive_and_too_long_ones_are_refused_here(daemon: DaemonProcess) -> None:
    source = "".join(f"# line {number} of many\n" for number in range(6_000))
    async with opened(daemon) as nb:
        cell = nb.add_cell(source)
        cell.edit(source + "42")
        assert (await (await cell.execute()).result()).outputs[0].text == "42"
        with pytest.raises(ValueError, match="bytes"):
            cell.edit("x" * 1024 * 1024 + "y")


async def test_a_save_writes_what_is_seen_here(daemon: DaemonProcess) -> None:
    async with opened(daemon) as nb:
        cell = nb.add_cell("print('saved')")
        await (await cell.execute()).result()
        saved = await nb.save()

        assert saved["path"] == "a.ipynb"
        written = nbformat.read(daemon.root / "a.ipynb", as_version=4)
        assert [(one.source, one.outputs[0].text) for one in written.cells] == [("print('saved')", "saved\n")]
        await nb.clear_outputs([cell])
        assert cell.outputs == []


async def test_a_viewer_reads_and_does_not_write(daemon: DaemonProcess) -> None:
    async with opened(daemon) as nb:
        cell = nb.add_cell("1")
        await nb.confirm_sync()
        async with opened(daemon, token=VIEWER, path=None, notebook=nb.url, create=False) as viewer:
            assert viewer.read_only
            assert viewer.cell(cell.id).source == "1"
            with pytest.raises(NotebookError, match="read-only"):
                viewer.cell(cell.id).edit("2")
            with pytest.raises(RequestFailed) as failed:
                await viewer.cell(cell.id).execute()
            assert failed.value.reason == "forbidden"
            await viewer.confirm_sync()


async def test_what_cannot_be_opened_says_why(daemon: DaemonProcess) -> None:
    reasons = []
    for options in ({"token": "wrong"}, {"create": False}, {"path": "../out.ipynb"}, {"path": "a.txt"}):
        with pytest.raises(RequestFailed) as failed:
            async with opened(daemon, **options):
                pass
        reasons.append(failed.value.reason)

    assert reasons == ["unauthorized", "not_found", "outside_root", "bad_request"]


async def test_work_goes_on_over_a_connection_that_breaks(daemon: DaemonProcess) -> None:
    async with wire_to(daemon.url) as wire, opened(daemon) as near:
        far = open_notebook(wire.url, token=daemon.token, path="a.ipynb")
        async with far as nb:
            cell = nb.add_cell("import time\nfor i in range(10):\n    print(i)\n    time.sleep(0.1)")
            execution = await cell.execute()
            await nb.wait_for(lambda: cell.outputs)
            wire.cut()
            written = nb.add_cell("'offline'")
            near.add_cell("'near'")
            async with trio.open_nursery() as nursery:
                results = []

                async def execute() -> None:
                    results.append(await (await written.execute()).result())

                nursery.start_soon(execute)
                await near.wait_for(lambda: near.queue["executing"] is None)
                wire.mend()

            assert (await execution.result()).outputs[0].text == "".join(f"{i}\n" for i in range(10))
            assert results[0].outputs[0].text == "'offline'"
            await near.confirm_sync()
            await nb.confirm_sync()
            assert {cell.source for cell in nb.cells} == {cell.source for cell in near.cells}
            assert len(nb.cells) == 3


async def test_an_execution_runs_once_wherever_the_connection_breaks_meanwhile(daemon: DaemonProcess) -> None:
    """In front of the request, behind it, in front of the answer, behind it: at each of the first frames, both ways."""
    faults = [
        Fault(direction, cut_after_frames=number, reset=bool(number % 2))
        for number in range(12)
        for direction in ("to_server", "to_client")
    ]
    async with wire_to(daemon.url) as wire, opened(daemon) as near:
        await (await near.add_cell("runs = 0").execute()).result()
        async with open_notebook(wire.url, token=daemon.token, path="a.ipynb") as nb:
            await nb.confirm_sync()
            for fault in faults:
                planned = iter([fault])
                wire.plan = lambda planned=planned: next(planned, Fault())  # type: ignore[misc]
                wire.break_all()
                cell = nb.add_cell(f"runs += 1; print(runs, {fault.cut_after_frames})")
                execution = await cell.execute()
                # Whatever it meets before and after the acceptance.
                result = await execution.result()
                assert [output.text for output in result.outputs] == [
                    f"{faults.index(fault) + 1} {fault.cut_after_frames}\n"
                ]
            met = len(wire.faults_met)
            await nb.confirm_sync()
            await near.confirm_sync()
            assert nb.notebook_heads() == near.notebook_heads()
            assert len(nb.cells) == len(faults) + 1
    print(f"{met} of {len(faults)} cuts met")
    assert met >= len(faults) // 2  # a connection that carries little does not come as far as the later ones


async def test_the_end_of_the_daemon_is_no_hang(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, opened(daemon, reconnect_seconds=0.5) as nb:
        cell = nb.add_cell("import time\ntime.sleep(60)")
        execution = await cell.execute()
        daemon.process.kill()
        with pytest.raises(ConnectionLost):
            await execution.result()
        with pytest.raises(ConnectionLost):
            await nb.confirm_sync()


async def test_opened_again_it_is_another_document_and_a_killed_daemon_takes_what_was_not_saved(tmp_path: Path) -> None:
    """What README and docs/wire.md say that there is not yet: a durable store."""
    urls = []
    async with running_daemon(tmp_path) as daemon:
        for number in range(2):
            async with opened(daemon) as nb:
                urls.append(nb.url)
                nb.add_cell(str(number))
                await nb.confirm_sync()
                await daemon.delete(f"/api/notebooks/{parse_automerge_url(nb.url)}")
                with pytest.raises(ConnectionLost):
                    await nb.wait_for(lambda: False)
        async with opened(daemon, reconnect_seconds=0) as nb:
            urls.append(nb.url)
            assert [cell.source for cell in nb.cells] == ["0", "1"]
            nb.add_cell("2")
            await nb.confirm_sync()
            daemon.signal(signal.SIGKILL)
            await daemon.process.wait()
    async with running_daemon(tmp_path) as daemon, opened(daemon) as nb:
        assert [cell.source for cell in nb.cells] == ["0", "1"]
        assert len({*urls, nb.url}) == 4
        with pytest.raises(RequestFailed, match="not_found"):
            async with open_notebook(daemon.url, token=daemon.token, notebook=urls[-1]):
                pass


async def test_programs_that_do_not_await_have_the_same(daemon: DaemonProcess) -> None:
    heard: list[str] = []

    def hear(events: BlockingEvents) -> None:
        try:
            for _ in events:
                pass
            heard.append("quiet")
        except ConnectionLost as error:
            heard.append(str(error))

    def use() -> None:
        with BlockingNotebook(daemon.url, token=daemon.token, path="b.ipynb", create=True) as nb:
            cell = nb.add_cell("print('x' * 3000)")
            events = nb.events()
            result = cell.execute().result(timeout=30)
            assert (result.status, result.outputs[0].text) == ("done", "x" * 3000 + "\n")
            assert cell.outputs == result.outputs
            assert next(event for event in events if event.method == "execution_done").params["status"] == "done"
            other = nb.add_cell("import time; time.sleep(60)", before=cell)
            assert nb.cells == [other, cell]
            other.move(after=cell)
            assert [one.source for one in nb.cells] == ["print('x' * 3000)", "import time; time.sleep(60)"]
            execution = other.execute()
            with pytest.raises(SyncTimeout):
                execution.result(timeout=0.1)
            nb.wait_for(lambda: execution.status == "running", timeout=30)
            for wait in (partial(nb.wait_for, lambda: False), execution.result):
                with pytest.raises(SyncTimeout, match=r"^not within 0\.3 s$"):
                    wait(timeout=0.3)
            assert nb.interrupt() == execution.id
            assert execution.result(timeout=30).status == "interrupted"
            cell.edit("2")
            nb.confirm_sync()
            assert nb.save()["path"] == "b.ipynb"
            with pytest.raises(RequestFailed, match="no_input_pending"):
                nb.input_reply("x")
            hearing = [threading.Thread(target=hear, args=(events,)) for _ in range(2)]
            for thread in hearing:
                thread.start()
        for thread in hearing:
            thread.join()
        assert heard == ["quiet", "quiet"]
        with pytest.raises(ConnectionLost):
            cell.execute()
        with pytest.raises(ConnectionLost):
            _ = nb.cells
        nb.close()
        with pytest.raises(RequestFailed):
            BlockingNotebook(daemon.url, token="wrong", path="b.ipynb")

    await trio.to_thread.run_sync(use)


UNCLOSED = """\
import sys
from sync.client import BlockingNotebook
nb = BlockingNotebook(sys.argv[1], token=sys.argv[2], path="u.ipynb", create=True)
class Late:
    def __del__(self):
        try:
            print(len(nb.cells))
        except Exception as error:
            print(type(error).__name__)
late = Late()
nb.add_cell("edited just before the end")
{end}
"""


@pytest.mark.parametrize(("end", "code"), [("", 0), ("raise SystemExit(3)", 3), ("1 / 0", 1)])
async def test_what_a_program_edited_that_ends_without_closing_is_sent(
    daemon: DaemonProcess, end: str, code: int
) -> None:
    """And what uses the notebook when the interpreter is on its way out hears that it is closed."""
    async with opened(daemon, path="u.ipynb") as nb:
        program = [sys.executable, "-c", UNCLOSED.format(end=end), daemon.url, daemon.token]
        ended = await trio.run_process(program, capture_stdout=True, capture_stderr=True, check=False)
        assert (ended.returncode, ended.stdout) == (code, b"ConnectionLost\n"), ended.stderr
        await nb.wait_for(lambda: [cell.source for cell in nb.cells] == ["edited just before the end"])


FORKED = """\
import os, sys
from sync.client import BlockingNotebook, ConnectionLost
with BlockingNotebook(sys.argv[1], token=sys.argv[2], path="f.ipynb", create=True) as nb:
    if os.fork() == 0:
        for use in (lambda: nb.cells, lambda: nb.add_cell("x"), lambda: nb.complete("pri")):
            try:
                use()
            except ConnectionLost as lost:
                print(lost, flush=True)
        nb.close()
        with BlockingNotebook(sys.argv[1], token=sys.argv[2], path="f.ipynb") as own:
            own.add_cell("of the child")
        os._exit(len(own.url) == 0)
    _, status = os.wait()
    nb.wait_for(lambda: [cell.source for cell in nb.cells] == ["of the child"], timeout=30)
sys.exit(status)
"""


async def test_a_forked_process_hears_that_the_notebook_is_its_parents(daemon: DaemonProcess) -> None:
    program = [sys.executable, "-c", FORKED, daemon.url, daemon.token]
    ended = await trio.run_process(program, capture_stdout=True, capture_stderr=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count(b"opened before this process was forked") == 3


async def test_whoever_takes_the_wrong_one_of_the_two_is_told_the_other(daemon: DaemonProcess) -> None:
    with pytest.raises(RuntimeError, match="use open_notebook"):
        BlockingNotebook(daemon.url, token=daemon.token, path="a.ipynb", create=True)

    async def in_asyncio() -> None:
        async with opened(daemon):
            pass

    with pytest.raises(RuntimeError, match="uses BlockingNotebook"):
        await trio.to_thread.run_sync(asyncio.run, in_asyncio())
