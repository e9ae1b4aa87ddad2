"""Peers that read slowly, or never: what it costs the others, what it costs the daemon, and what they miss."""

import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import cast

import psutil
import pytest
import trio

from sync.core.frames import Join, Sync, encode_frame
from sync.core.identifiers import parse_automerge_url
from sync.core.limits import MAX_FRAME_BYTES, MAX_PEER_BYTES, MIB
from sync.core.sync_message import encode_sync_message
from sync.transport import SocketTransport
from sync.websocket import PeerSocket, connect_socket
from tests.fakes.served_daemon import Opened, ServedDaemon
from tests.fakes.thin_peer import ThinPeer, open_thin_peer

# More than the daemon holds for one peer and what the system's buffers take beside it.
EXECUTIONS, MESSAGES, MESSAGE_BYTES = 20, 20, 100_000
CUSTOM_MESSAGES = f"""
from comm import create_comm
comm = create_comm(target_name="custom")
for _ in range({MESSAGES}):
    comm.send({{"method": "custom", "content": {{}}}}, buffers=[bytes({MESSAGE_BYTES})])
"""
# Lines, so that it is many commits; the daemon keeps 10 MB of an output, so it is several cells.
FLOOD_BYTES = 8_000_000
FLOOD = f"for _ in range({FLOOD_BYTES // 100}): print('x' * 99)"


def gaps(peer: ThinPeer) -> int:
    """How many events it missed since its first."""
    seqs = [event.params["seq"] for event in peer.events]
    assert seqs == sorted(seqs)
    return seqs[-1] - seqs[0] + 1 - len(seqs)


@asynccontextmanager
async def silent_peer(daemon: ServedDaemon, opened: Opened) -> AsyncIterator[PeerSocket]:
    """Opens both documents, says that it has them, and from then on is only read by whoever gets its socket."""
    async with connect_socket(daemon.sync_url, token=daemon.token, max_message_bytes=MAX_FRAME_BYTES) as socket:
        await socket.send([encode_frame(Join("silent", ("1",), {}))])
        for url in (opened.notebook, opened.runtime):
            message = encode_sync_message((b"\x00" * 32,), have=None, read_only=None)
            await socket.send([encode_frame(Sync("silent", "daemon", parse_automerge_url(url), message))])
        yield socket


async def test_a_peer_that_falls_behind_misses_events_sees_the_gap_and_has_the_documents(
    daemon: ServedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    process = psutil.Process(daemon.pid)
    async with (
        daemon.opened() as opened,
        open_thin_peer(daemon, opened) as fast,
        open_thin_peer(daemon, opened) as slow,
    ):
        assert await fast.run(fast.add_cell("1")) == "done"
        await slow.settle()
        before = process.memory_info().rss
        slow.reads = trio.Event()
        sending = fast.add_cell(CUSTOM_MESSAGES)
        for _ in range(EXECUTIONS):  # one by one, so that who reads keeps up
            assert await fast.run(sending) == "done"
        assert await fast.run(fast.add_cell("print('last')")) == "done"
        held = process.memory_info().rss - before
        custom = len(fast.heard("comm_custom"))
        slow.reads.set()
        await slow.settle()
        await fast.settle()

        assert custom == EXECUTIONS * MESSAGES
        assert gaps(fast) == 0
        assert gaps(slow) > 0
        assert slow.runtime.replica.heads() == fast.runtime.replica.heads()
        assert slow.notebook.replica.heads() == fast.notebook.replica.heads()
        again = slow.add_cell("2")
        assert await slow.run(again) == "done", "it goes on as before"
        with capsys.disabled():
            print(
                f"\nSlow peer: {len(slow.heard('comm_custom'))} of {custom} custom messages of {MESSAGE_BYTES // 1000} kB, "
                f"{gaps(slow)} events missed, the daemon's RSS up by {held / MIB:.0f} MiB",
                file=sys.stderr,
            )
        assert held < EXECUTIONS * MESSAGES * MESSAGE_BYTES, "nowhere near all that it was not sent"


@pytest.mark.parametrize("bytes_per_second", [0, 1000])
async def test_a_peer_that_does_not_read_costs_the_others_nothing(
    daemon: ServedDaemon, bytes_per_second: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures are printed: this machine has other things to do as well."""
    process = psutil.Process(daemon.pid)
    async with daemon.opened() as opened, open_thin_peer(daemon, opened) as healthy:
        cell_id = healthy.add_cell(FLOOD)
        await healthy.run(cell_id)

        async def timed() -> float:
            started = perf_counter()
            assert await healthy.run(cell_id) == "done"
            return perf_counter() - started

        without, beside = [], []
        before = process.memory_info().rss
        for _ in range(3):
            without.append(await timed())
            async with silent_peer(daemon, opened) as socket, trio.open_nursery() as nursery:
                if bytes_per_second:
                    nursery.start_soon(_trickle, socket, bytes_per_second)
                beside.append(await timed())
                async with daemon.client() as client:
                    figures = (await client.get("/metrics")).text
                held = re.findall(r"^notebookd_outbox_bytes (.*)$", figures, re.MULTILINE)
                assert [float(count) <= MAX_PEER_BYTES for count in held] == [True]
                nursery.cancel_scope.cancel()
        grown = process.memory_info().rss - before
        assert await healthy.outputs(cell_id)
        reads = f"{bytes_per_second} B/s" if bytes_per_second else "nothing"
        with capsys.disabled():
            print(
                f"\nBeside a peer that reads {reads}: {_seconds(beside)} s for {FLOOD_BYTES / 1e6:.0f} MB, "
                f"without it {_seconds(without)} s; the daemon's RSS {grown / MIB:+.0f} MiB",
                file=sys.stderr,
            )


async def _trickle(socket: PeerSocket, bytes_per_second: int) -> None:
    """Takes bytes from below the WebSocket, which is all that the other end notices."""
    transport = cast("SocketTransport", socket._transport)
    while True:
        await transport._stream.socket.recv(bytes_per_second)
        await trio.sleep(1)


def _seconds(values: list[float]) -> str:
    return "/".join(f"{value:.2f}" for value in values)


async def test_500_that_connect_at_once_and_again_harm_nobody(
    daemon: ServedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each opens both documents and hangs up without a word, and comes again at once."""
    process = psutil.Process(daemon.pid)
    async with daemon.opened() as opened, open_thin_peer(daemon, opened) as honest:
        cell_id = honest.add_cell("1 + 1")
        assert await honest.run(cell_id) == "done"
        files = process.num_fds()
        ended = trio.Event()
        executions = 0

        async def execute() -> None:
            nonlocal executions
            while not ended.is_set():
                assert await honest.run(cell_id) == "done"
                executions += 1

        async def come_and_go() -> None:
            for _ in range(2):
                async with silent_peer(daemon, opened) as socket:
                    await socket.receive()

        started = perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(execute)
            async with trio.open_nursery() as storm:
                for _ in range(500):
                    storm.start_soon(come_and_go)
            took = perf_counter() - started
            ended.set()
        assert await honest.run(cell_id) == "done"
        with capsys.disabled():
            print(
                f"\nStorm: 1 000 connections, 500 at once, in {took:.1f} s, beside {executions} executions",
                file=sys.stderr,
            )
        assert executions
        async with daemon.client() as client:
            [info] = [
                info for info in (await client.get("/api/notebooks")).json()["notebooks"] if info["id"] == opened.id
            ]
        assert info["peers"] == 1, "nobody is kept who is gone"
        assert process.num_fds() <= files + 20
