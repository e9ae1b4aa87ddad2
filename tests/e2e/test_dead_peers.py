"""Peers that are gone without a word, daemons that are, and hundreds that come and go at once."""

from pathlib import Path

import psutil
import pytest
import trio

from sync.client import open_notebook
from sync.core.frames import Join, Sync, encode_frame
from sync.core.identifiers import PeerId, parse_automerge_url
from sync.core.limits import MAX_FRAME_BYTES
from sync.core.sync_message import encode_sync_message
from sync.websocket import connect_socket, keepalive
from tests.fakes.daemon_process import DaemonProcess, running_daemon
from tests.fakes.impatient_daemon import IMPATIENT
from tests.fakes.tcp_proxy import Fault, wire_to
from tests.fakes.thin_peer import open_thin_peer
from tests.fakes.weather import Documents, Through

STORM = 500
AT_ONCE = 100  # as many as one process of this test can hold open without limits of its own in the way


async def open_documents(daemon: DaemonProcess) -> Documents:
    opened = await daemon.open("a.ipynb", create=True)
    return Documents(opened["notebook"], opened["runtime"])


async def peers(daemon: DaemonProcess) -> int:
    """How many the daemon counts."""
    [notebook] = (await daemon.get("/api/notebooks")).json()["notebooks"]
    count: int = notebook["peers"]
    return count


async def test_a_peer_that_vanished_without_a_word_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, module="tests.fakes.impatient_daemon") as daemon, wire_to(daemon.url) as wire:
        documents = await open_documents(daemon)
        wire.plan = lambda: Fault("to_client", vanish_after_bytes=20_000)
        async with (
            open_thin_peer(daemon, documents) as honest,
            open_thin_peer(Through(wire.url, daemon.token), documents) as vanishing,
        ):
            assert await peers(daemon) == 2
            cell_id = honest.add_cell("print('x' * 500)")
            while not wire.faults_met:  # each says something to all peers
                assert await honest.run(cell_id) == "done"
            await wire.wait_given_up("server")
            assert not vanishing.ended.is_set()  # it has heard nothing of it
            assert await honest.run(cell_id) == "done"
            await honest.settle()
            assert await peers(daemon) == 1


async def test_a_daemon_that_vanished_without_a_word_is_given_up_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_daemon(tmp_path) as daemon, wire_to(daemon.url) as wire:
        documents = await open_documents(daemon)
        faults = iter([Fault("to_client", vanish_after_bytes=20_000)])
        wire.plan = lambda: next(faults, Fault())
        monkeypatch.setattr(keepalive, "__kwdefaults__", IMPATIENT)
        async with (
            open_notebook(wire.url, token=daemon.token, notebook=documents.notebook) as nb,
            open_thin_peer(daemon, documents) as other,
        ):
            cell = nb.add_cell("print('x' * 500)")
            await nb.confirm_sync()
            while not wire.faults_met:
                await other.run(cell.id)
            offline = nb.add_cell("'written to nobody'")
            execution = await offline.execute()  # asked again on the next connection
            assert (await execution.result()).outputs[0].data == {"text/plain": "'written to nobody'"}
            assert wire.given_up[0] == "client"
            await nb.confirm_sync()
            await other.settle()
            assert other.read("executions", execution.id, "status") == "done"
            assert [event.params["execution_id"] for event in other.heard("execution_started")].count(execution.id) == 1


async def test_five_hundred_that_come_and_go_at_once_leave_nothing_behind(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        documents = await open_documents(daemon)
        process = psutil.Process(daemon.process.pid)
        document_ids = [parse_automerge_url(url) for url in (documents.notebook, documents.runtime)]
        limit, came = trio.CapacityLimiter(AT_ONCE), 0

        async def come_and_go(number: int) -> None:
            nonlocal came
            async with limit:
                connected = connect_socket(daemon.sync_url, token=daemon.token, max_message_bytes=MAX_FRAME_BYTES)
                async with connected as socket:
                    peer_id = PeerId(f"storm-{number}")
                    empty = encode_sync_message((), have=None, changes=[], read_only=None)
                    join = Join(peer_id, ("1",), {"isEphemeral": True})
                    asks = [Sync(peer_id, PeerId("daemon"), document_id, empty, True) for document_id in document_ids]
                    frames = [encode_frame(frame) for frame in (join, *asks)]
                    await socket.send(frames)
                    if number % 3:  # a third does not even wait for an answer
                        await socket.receive()
                    came += 1
                    socket.drop()

        async with open_thin_peer(daemon, documents) as honest:
            cell_id = honest.add_cell("1")
            assert await honest.run(cell_id) == "done"
            before = process.num_fds(), process.num_threads()
            async with trio.open_nursery() as nursery:
                for number in range(STORM):
                    nursery.start_soon(come_and_go, number)
                for _ in range(20):
                    assert await honest.run(cell_id) == "done"
            assert came == STORM
            assert await honest.run(cell_id) == "done"
            while await peers(daemon) > 1:  # each request is a round through the daemon's loop, which sees them leave
                await honest.settle()
            after = process.num_fds(), process.num_threads()
        print(f"{STORM} connections: (fds, threads) {before} -> {after}")
        # The connection of an HTTP request may be open still; threads of the pool come and go.
        assert after[0] <= before[0] + 3
        assert after[1] <= before[1] + 10
