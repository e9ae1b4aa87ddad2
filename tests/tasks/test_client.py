"""The client against a daemon that does what each test says, on real sockets in one process."""

import random
import socket as stdlib_socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from sync.client import ConnectionLost, NotebookError, ProtocolError, RequestFailed, SyncTimeout, open_notebook
from sync.client import connection as client_connection
from sync.client import events as client_events
from sync.core.cell_order import read_order
from sync.core.frames import Ephemeral, encode_data, encode_frame
from sync.core.identifiers import automerge_url, document_id
from sync.core.jsonrpc import RequestError
from sync.core.mutations import AppendOutput, ClearOutputs, SetFile, SetKernel, Target
from sync.core.notebook_schema import NotebookSchema
from sync.core.outputs import StreamOutput
from sync.websocket import PeerSocket, SocketClosed, connect_socket
from tests.fakes.scripted_daemon import ScriptedDaemon, scripted_daemon
from tests.fakes.simulated_clients import DAEMON

UUID = "00000000-0000-4000-8000-00000000000"


@pytest.fixture
async def daemon() -> AsyncIterator[ScriptedDaemon]:
    async with scripted_daemon() as daemon:
        yield daemon


def opened(daemon: ScriptedDaemon, **options: Any) -> Any:
    return open_notebook(daemon.url, notebook=daemon.notebook.url, **options)


def printed(cell_id: str, text: str) -> AppendOutput:
    return AppendOutput(Target("cell", cell_id), StreamOutput(f"{UUID}0", "stdout", (text,)))


# --- Opening and closing


async def test_an_open_notebook_has_both_documents_and_follows_them(daemon: ScriptedDaemon) -> None:
    async with opened(daemon) as nb:
        assert (nb.kernel_status, nb.queue, nb.cells) == ("idle", {"executing": None, "queued": []}, [])
        daemon.change(SetKernel(status="busy"))
        await daemon.flush()

        await nb.wait_for(lambda: nb.kernel_status == "busy")


async def test_opening_waits_until_the_file_is_loaded(daemon: ScriptedDaemon) -> None:
    daemon.change(SetFile(status="loading"))
    async with opened(daemon, wait_loaded=False) as nb, trio.open_nursery() as nursery:
        assert nb.file["status"] == "loading"

        async def open_and_look() -> None:
            async with opened(daemon) as other:
                assert other.file["status"] == "ready"

        nursery.start_soon(open_and_look)
        await daemon.wait_asked("barrier", times=2)
        daemon.change(SetFile(status="ready"))
        await daemon.flush()


async def test_errors_of_the_block_come_out_as_they_are(daemon: ScriptedDaemon) -> None:
    with pytest.raises(ZeroDivisionError):
        async with opened(daemon):
            _ = 1 / 0


async def test_errors_of_a_block_that_is_cancelled_come_out_as_they_are(daemon: ScriptedDaemon) -> None:
    with trio.CancelScope() as scope, pytest.raises(ZeroDivisionError):
        async with opened(daemon):
            scope.cancel()
            _ = 1 / 0
    with trio.CancelScope() as scope, pytest.raises(ZeroDivisionError):
        async with opened(daemon):
            try:
                scope.cancel()
                await trio.sleep_forever()
            finally:
                _ = 1 / 0
    with trio.CancelScope() as scope:
        async with opened(daemon):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_what_was_edited_last_is_sent_before_the_block_is_left(daemon: ScriptedDaemon) -> None:
    async with opened(daemon) as nb:
        cell = nb.add_cell("1 + 1")

    assert NotebookSchema.read_source(daemon.notebook.replica, cell.id) == "1 + 1"
    with pytest.raises(ConnectionLost, match="closed"):
        cell.edit("2")


async def test_a_notebook_that_the_daemon_does_not_have_is_not_found(daemon: ScriptedDaemon) -> None:
    with pytest.raises(RequestFailed) as failed:
        async with open_notebook(daemon.url, notebook=automerge_url(document_id(b"?" * 16))):
            pass
    assert (failed.value.reason, failed.value.data) == ("not_found", {"kind": "notebook"})


async def test_where_nobody_listens_there_is_no_connection() -> None:
    with stdlib_socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ConnectionLost):
            async with open_notebook(url, notebook=automerge_url(document_id(b"?" * 16))):
                pass
        with pytest.raises(ConnectionLost):
            async with open_notebook(url, path="a.ipynb"):
                pass


@pytest.mark.parametrize(
    ("status", "body", "reason", "says"),
    [
        (401, b"", "unauthorized", ""),
        (403, b"", "forbidden", ""),
        (500, b"<html>", "http_500", ""),
        (
            429,
            b'{"error": {"reason": "too_many_connections", "message": "600 peers"}}',
            "too_many_connections",
            "600 peers",
        ),
    ],
)
async def test_a_refused_upgrade_says_why(status: int, body: bytes, reason: str, says: str) -> None:
    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, refuse, 0, host="127.0.0.1"))
        with pytest.raises(RequestFailed) as failed:
            async with open_notebook(
                f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}",
                notebook=automerge_url(document_id(b"?" * 16)),
            ):
                pass
        nursery.cancel_scope.cancel()
    assert (failed.value.code, failed.value.reason) == (status, reason)
    assert str(failed.value) == (f"{reason}: {says}" if says else reason)


async def test_a_daemon_that_never_answers_is_given_up(daemon: ScriptedDaemon) -> None:
    daemon.replies["barrier"] = lambda _: None
    daemon.max_payload = 1
    with pytest.raises(SyncTimeout):
        async with opened(daemon, timeout=0.2):
            pass


async def test_a_daemon_that_is_ending_says_so_while_a_notebook_is_opened(daemon: ScriptedDaemon) -> None:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise RequestError.shutting_down()

    daemon.replies["barrier"] = refuse
    with pytest.raises(RequestFailed, match="shutting_down"):
        async with opened(daemon):
            pass


@pytest.mark.parametrize("status", [200, 301, 404, 405, 426, 501])
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error": "no"}'])
@pytest.mark.parametrize("by", [{"path": "n.ipynb"}, {"notebook": automerge_url(document_id(b"?" * 16))}])
async def test_what_is_no_daemon_but_speaks_http_is_told_as_that(status: int, body: bytes, by: dict[str, Any]) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        with pytest.raises(ProtocolError):
            async with open_notebook(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", **by):
                pass
        nursery.cancel_scope.cancel()


async def test_only_one_of_path_and_notebook_is_given() -> None:
    with pytest.raises(ValueError, match="either"):
        async with open_notebook("http://localhost"):
            pass
    with pytest.raises(ValueError, match="line breaks"):
        async with open_notebook("http://localhost", token="secret\n", path="a.ipynb"):
            pass
    with pytest.raises(ValueError, match="URL"):
        async with open_notebook("localhost:8889", path="a.ipynb"):
            pass


# --- Requests and executions


async def test_a_cell_is_executed_at_the_heads_that_are_seen_here(daemon: ScriptedDaemon) -> None:
    async with opened(daemon) as nb:
        cell = nb.add_cell("1")
        cell.edit("2")
        execution = await cell.execute()
        params = daemon.requests[-1]["params"]

        assert params == {"cell_id": cell.id, "execution_id": execution.id, "notebook_heads": nb.notebook_heads()}
        assert NotebookSchema.read_source(daemon.notebook.replica, cell.id) == "2"


async def test_a_result_has_the_outputs_as_they_were_at_the_end(daemon: ScriptedDaemon) -> None:
    async with opened(daemon) as nb:
        cell = nb.add_cell("print(1)")
        daemon.replies["execute_cell"] = lambda params: daemon.start(params["execution_id"], cell.id) or {}  # type: ignore[func-returns-value]
        execution = await cell.execute()
        assert execution.status == "running"
        daemon.change(printed(cell.id, "first"))
        daemon.end(execution.id)
        daemon.tell("execution_done", cell_id=cell.id, execution_id=execution.id, status="done", execution_count=1)
        # The next execution of the cell begins before anything is written.
        daemon.start(f"{UUID}9", cell.id, ClearOutputs(Target("cell", cell.id)))
        await daemon.flush()
        result = await execution.result()

        assert (result.status, result.execution_count) == ("done", 1)
        assert [output.text for output in result.outputs] == ["first"]
        assert cell.outputs == []


async def test_an_execution_whose_event_was_dropped_ends_all_the_same(daemon: ScriptedDaemon) -> None:
    async with opened(daemon) as nb:
        cell = nb.add_cell("print(1)")
        daemon.replies["execute_cell"] = lambda params: daemon.start(params["execution_id"], cell.id) or {}  # type: ignore[func-returns-value]
        execution = await cell.execute()
        daemon.change(printed(cell.id, "out"))
        daemon.end(execution.id, "error", count=7)
        await daemon.flush()
        result = await execution.result()

        assert (result.status, result.execution_count, result.outputs[0].text) == ("error", 7, "out")


async def test_executions_of_a_run_are_known_before_their_events(daemon: ScriptedDaemon) -> None:
    async with opened(daemon) as nb:
        cell = nb.add_cell("1")
        daemon.replies["run_all_cells"] = lambda _: None
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                (execution,) = await nb.run_all()
                result = await execution.result()
                assert (result.status, result.outputs[0].text) == ("done", "x")

            nursery.start_soon(run)
            await daemon.wait_asked("run_all_cells")
            daemon.start(f"{UUID}1", cell.id, printed(cell.id, "x"))
            daemon.end(f"{UUID}1")
            daemon.replies["run_all_cells"] = lambda _: {
                "executions": [{"cell_id": cell.id, "execution_id": f"{UUID}1"}]
            }
            client = next(iter(daemon.sockets))
            daemon.answer(client, client.outbox.target, daemon.requests[-1])  # type: ignore[union-attr]
            daemon.tell("execution_done", cell_id=cell.id, execution_id=f"{UUID}1", status="done", execution_count=1)
            await daemon.flush()


async def test_a_refused_request_says_why(daemon: ScriptedDaemon) -> None:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise RequestError.kernel_failed("it died", "Traceback")

    daemon.replies["launch_kernel"] = refuse
    async with opened(daemon) as nb:
        with pytest.raises(RequestFailed, match="it died") as failed:
            await nb.launch()
        assert (failed.value.code, failed.value.reason) == (-32006, "kernel_failed")
        assert failed.value.data == {"stderr": "Traceback"}


async def test_an_interrupt_does_not_wait_behind_requests_that_are_not_answered(daemon: ScriptedDaemon) -> None:
    daemon.replies["clear_outputs"] = lambda _: None
    daemon.replies["interrupt"] = lambda _: {"execution_id": "e"}
    async with opened(daemon) as nb, trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(nb.clear_outputs)
        await daemon.wait_asked("clear_outputs")

        assert await nb.interrupt() == "e"
        assert daemon.methods().count("clear_outputs") < 64
        nursery.cancel_scope.cancel()


async def test_input_is_given_to_the_request_that_the_document_shows(daemon: ScriptedDaemon) -> None:
    async with opened(daemon) as nb:
        with pytest.raises(RequestFailed, match="no_input_pending"):
            await nb.input_reply("7")
        daemon.change(
            SetKernel(input_request={"request_id": "r", "prompt": "?", "password": False, "execution_id": "e"})
        )
        await daemon.flush()
        await nb.wait_for(lambda: nb.kernel.get("input_request"))
        await nb.input_reply("7")

        assert daemon.requests[-1]["params"] == {"request_id": "r", "value": "7"}


# --- Being in step


async def test_confirm_sync_names_the_edits_and_ends_in_time(daemon: ScriptedDaemon) -> None:
    async with opened(daemon) as nb:
        nb.add_cell("1")
        await nb.confirm_sync()
        assert daemon.requests[-1]["params"] == {"notebook_heads": nb.notebook_heads()}
        assert daemon.notebook.heads() == nb.notebook_replica.heads()

        daemon.replies["barrier"] = lambda _: None
        with pytest.raises(SyncTimeout):
            await nb.confirm_sync(timeout=0.05)


async def test_confirm_sync_says_that_an_edit_was_refused(daemon: ScriptedDaemon) -> None:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise RequestError.heads_timeout(["ab"])

    async with opened(daemon) as nb:
        daemon.replies["barrier"] = refuse
        with pytest.raises(SyncTimeout, match="did not take"):
            await nb.confirm_sync()


async def test_a_fresh_runtime_document_takes_over_without_a_gap(daemon: ScriptedDaemon) -> None:
    async with opened(daemon) as nb:
        events = nb.events()
        seen = []
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async for event in events:
                    seen.append((event.seq, nb.kernel_status))
                    if event.seq == 2:
                        return

            nursery.start_soon(watch)
            daemon.tell("queue_changed")
            daemon.renew_runtime()
            daemon.change(SetKernel(status="dead"))
            daemon.tell("queue_changed")
            await daemon.flush()

        assert nb.runtime_id == daemon.runtime.id
        assert seen == [(1, "idle"), (2, "dead")]


async def test_a_viewer_cannot_edit(daemon: ScriptedDaemon) -> None:
    async with opened(daemon) as nb:
        client = next(iter(daemon.sockets))
        assert client.outbox is not None
        client.outbox.subscriptions[daemon.notebook.id].make_read_only()
        await daemon.flush()
        await nb.wait_for(lambda: nb.read_only)
        with pytest.raises(NotebookError, match="read-only"):
            nb.add_cell("1")


async def test_an_event_is_acted_on_before_its_state_is_acknowledged(daemon: ScriptedDaemon) -> None:
    async with opened(daemon) as nb, trio.open_nursery() as nursery:
        events = nb.events()
        acted: list[bool] = []

        async def act() -> None:
            async for _ in events:
                # What is told with the next write was not told yet.
                acted.append(nb._session.runtime is not None and nb._session.runtime.due)
                return

        nursery.start_soon(act)
        await trio.testing.wait_all_tasks_blocked()
        daemon.change(SetKernel(status="busy"))
        daemon.tell("queue_changed")
        await daemon.flush()

    assert acted == [True]


@pytest.mark.parametrize(("bound", "most"), [("MAX_WAITING", 500), ("MAX_WAITING_BYTES", 100_000)])
async def test_a_consumer_of_events_that_lags_loses_the_oldest(
    daemon: ScriptedDaemon, bound: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_events, bound, most)
    async with opened(daemon) as nb:
        events = nb.events()
        for _ in range(3):
            for _ in range(200):
                daemon.tell("queue_changed")
            await daemon.flush()
        await nb.confirm_sync()

        kept = [await anext(events)]
        while kept[-1].seq < 600:
            kept.append(await anext(events))
        assert [event.seq for event in kept] == list(range(kept[0].seq, 601))
        if bound == "MAX_WAITING":
            assert len(kept) == most
        else:
            assert most - max(event.nbytes for event in kept) < sum(event.nbytes for event in kept) <= most
        events.close()
        assert [event async for event in events] == []


@pytest.mark.parametrize("seed", range(3))
async def test_the_order_of_cells_is_that_of_the_document_whoever_changes_it(daemon: ScriptedDaemon, seed: int) -> None:
    """It is kept from one change to the next, since reading it takes 4 us a cell: 1 000 cells were added in 3 s."""
    rng = random.Random(seed)
    reads: list[int] = []
    async with opened(daemon) as nb, opened(daemon) as other:
        for number in range(80):
            cells = nb.cells
            some, another = (rng.choice(cells), rng.choice(cells)) if cells else (None, None)
            match rng.randrange(8):
                case 0 if some is not None and another is not None:
                    some.move(**{rng.choice(("before", "after")): another}) if some != another else some.move()
                case 1 if some is not None:
                    some.delete()
                case 2 if some is not None:
                    some.edit("x" * number)
                case 3:
                    other.add_cell("theirs", before=rng.choice(other.cells) if other.cells else None)
                    await other.confirm_sync()
                    await nb.confirm_sync()
                case 4 if some is not None and another is not None:
                    write = partial(NotebookSchema.set_position, cell_id=some.id, position=another.id[:3] + "1")
                    nb.write(write)
                case _:
                    nb.add_cell(str(number), **({rng.choice(("before", "after")): some} if some else {}))  # type: ignore[arg-type]
            assert nb.order() == read_order(nb.notebook_replica)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sync.client.notebook.read_order", lambda replica: reads.append(1) or read_order(replica))
            for number in range(20):
                nb.add_cell(str(number)).edit("more")
    assert len(reads) <= 1


async def test_a_cell_that_is_moved_before_or_after_itself_stays_where_it_is(daemon: ScriptedDaemon) -> None:
    async with opened(daemon) as nb:
        cells = [nb.add_cell(str(number)) for number in range(3)]
        heads = nb.notebook_replica.heads()
        one = cells[1]
        for places in ({"before": one}, {"after": one}, {"before": one.id}, {"after": one.id}):
            one.move(**places)
        assert (nb.cells, nb.notebook_replica.heads()) == (cells, heads)
        with pytest.raises(ValueError, match="not both"):
            one.move(before=one, after=cells[0])
        one.delete()
        with pytest.raises(NotebookError, match="deleted"):
            one.move(before=one)


# --- When the connection breaks


async def test_an_execution_is_asked_for_again_and_other_requests_are_lost(daemon: ScriptedDaemon) -> None:
    daemon.replies["execute_cell"] = daemon.replies["interrupt"] = lambda _: None
    async with opened(daemon) as nb:
        cell = nb.add_cell("1")
        async with trio.open_nursery() as nursery:

            async def interrupt() -> None:
                with pytest.raises(ConnectionLost):
                    await nb.interrupt()

            async def execute() -> None:
                execution = await cell.execute()
                assert execution.id == first["execution_id"]

            nursery.start_soon(interrupt)
            nursery.start_soon(execute)
            await daemon.wait_asked("interrupt")
            first = await daemon.wait_asked("execute_cell")
            daemon.replies["execute_cell"] = lambda _: {}
            daemon.drop()
            assert await daemon.wait_asked("execute_cell", times=2) == first

    assert daemon.methods().count("interrupt") == 1


@pytest.fixture
def swallowed(monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """The second attempt to connect is never answered, as by a network that swallows what it is given; set once it is made."""
    connect = client_connection.connect_socket
    attempts = 0
    swallowed = trio.Event()

    @asynccontextmanager
    async def connect_once(url: str, **options: Any) -> AsyncIterator[PeerSocket]:
        nonlocal attempts
        attempts += 1
        if attempts > 1:
            swallowed.set()
            await trio.sleep_forever()
        async with connect(url, **options) as socket:
            yield socket

    monkeypatch.setattr(client_connection, "connect_socket", connect_once)
    return swallowed


async def test_a_block_is_left_though_an_attempt_to_connect_hangs(
    daemon: ScriptedDaemon, swallowed: trio.Event
) -> None:
    """The end of the block took two minutes."""
    with trio.fail_after(20):
        async with opened(daemon) as nb:
            daemon.drop()
            await swallowed.wait()
            assert not nb._connection.connected


async def test_a_connection_is_given_up_in_time_though_the_attempt_hangs(
    daemon: ScriptedDaemon, swallowed: trio.Event
) -> None:
    with trio.fail_after(20):
        async with opened(daemon, reconnect_seconds=0.5) as nb:
            daemon.drop()
            await swallowed.wait()
            with pytest.raises(ConnectionLost, match="no answer from"):
                await nb.wait_for(lambda: False)


async def test_who_does_not_answer_a_connection_is_given_up(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The system goes on trying for two minutes."""

    async def try_for_ever(*args: object, **options: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", try_for_ever)
    with pytest.raises(SocketClosed, match="within 10 s"):
        async with connect_socket("ws://127.0.0.1:1/sync", max_message_bytes=1):
            pass
    assert trio.current_time() < 60


async def test_edits_go_on_while_the_connection_is_made_anew(daemon: ScriptedDaemon) -> None:
    async with opened(daemon) as nb:
        daemon.drop()
        await nb.wait_for(lambda: not nb._connection.connected)
        cell = nb.add_cell("offline")
        with pytest.raises(ConnectionLost, match="not connected"):
            await nb.interrupt()
        await nb.confirm_sync()

        assert NotebookSchema.read_source(daemon.notebook.replica, cell.id) == "offline"


async def test_a_lost_daemon_is_given_up_after_a_while_and_everyone_hears_of_it(daemon: ScriptedDaemon) -> None:
    async with opened(daemon, reconnect_seconds=0.2) as nb:
        events = nb.events()
        cell = nb.add_cell("1")
        daemon.replies["execute_cell"] = lambda params: daemon.start(params["execution_id"], cell.id) or {}  # type: ignore[func-returns-value]
        execution = await cell.execute()
        daemon.accepts = False
        daemon.drop()
        with pytest.raises(ConnectionLost):
            await execution.result()
        with pytest.raises(ConnectionLost):
            await anext(events)
        with pytest.raises(ConnectionLost):
            await nb.confirm_sync()
        with pytest.raises(ConnectionLost):
            await cell.execute()
        assert cell.source == "1"


@pytest.mark.parametrize("status", [503, 500, 429])
async def test_a_daemon_that_lets_nobody_in_at_the_moment_is_asked_again(daemon: ScriptedDaemon, status: int) -> None:
    async with opened(daemon) as nb:
        daemon.refusals = [status, status]
        daemon.drop()
        await nb.wait_for(lambda: not daemon.refusals)
        cell = nb.add_cell("written meanwhile")
        await nb.confirm_sync()

        assert NotebookSchema.read_source(daemon.notebook.replica, cell.id) == "written meanwhile"


@pytest.mark.parametrize("status", [401, 403])
async def test_a_daemon_that_does_not_know_the_token_any_more_is_not_asked_again(
    daemon: ScriptedDaemon, status: int
) -> None:
    async with opened(daemon) as nb:
        daemon.refusals = [status, status]
        daemon.drop()
        with pytest.raises(ConnectionLost, match="does not let us in"):
            await nb.wait_for(lambda: False)

    assert daemon.refusals == [status]


async def test_an_execution_that_a_restarted_daemon_does_not_know_is_lost(daemon: ScriptedDaemon) -> None:
    async with opened(daemon) as nb:
        cell = nb.add_cell("1")
        daemon.replies["execute_cell"] = lambda params: daemon.start(params["execution_id"], cell.id) or {}  # type: ignore[func-returns-value]
        execution = await cell.execute()
        del daemon.documents[daemon.runtime.id]
        daemon.renew_runtime()
        daemon.drop()

        with pytest.raises(ConnectionLost, match="does not know"):
            await execution.result()
        assert nb.runtime_id == daemon.runtime.id


async def test_a_notebook_that_is_closed_at_the_daemon_is_lost(daemon: ScriptedDaemon) -> None:
    async with opened(daemon) as nb:
        client = next(iter(daemon.sockets))
        assert client.outbox is not None
        client.outbox.push_unavailable(daemon.notebook.id)
        await daemon.flush()
        with pytest.raises(ConnectionLost, match="does not have"):
            await nb.wait_for(lambda: False)


async def test_a_daemon_that_breaks_the_protocol_is_left(daemon: ScriptedDaemon) -> None:
    async with opened(daemon) as nb:
        socket = next(iter(daemon.sockets.values()))
        event = encode_data({"jsonrpc": "2.0", "method": "x", "params": {"runtime": 1}})
        await socket.send([encode_frame(Ephemeral(DAEMON, "x", daemon.notebook.id, "other", 1, event))])
        with pytest.raises(ProtocolError, match="runtime"):
            await nb.wait_for(lambda: False)
        with pytest.raises(ProtocolError):
            await nb.interrupt()


async def test_what_answers_join_with_something_else_is_no_daemon() -> None:
    async with scripted_daemon() as daemon:
        daemon.hear = lambda client: (client.to_daemon.popleft(), client.to_client.append(b"what?"))[1]  # type: ignore[method-assign]
        with pytest.raises(ProtocolError):
            async with opened(daemon):
                pass
