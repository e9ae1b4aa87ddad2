"""Nothing that a kernel prints is lost, however it prints it and whatever the daemon does meanwhile."""

import signal

import pytest
import trio

from tests.fakes.served_daemon import Opened, ServedDaemon
from tests.fakes.thin_peer import ThinPeer, open_thin_peer

LINES = 10_000
ALL_LINES = "".join(f"line {n}\n" for n in range(LINES))
STOPPED_SECONDS = 6.0  # ipykernel's own queue would have overflowed many times over


@pytest.fixture(scope="module")
def opened(daemon: ServedDaemon) -> Opened:
    """One notebook, and one kernel, for all tests here."""
    return trio.run(daemon.open)


async def stdout_of(peer: ThinPeer, source: str) -> str:
    """Executes a source that prints to stdout alone; the text of its one output."""
    [output] = await peer.show(source, within=50)
    assert (output["output_type"], output["name"]) == ("stream", "stdout")
    text: str = output["text"]
    return text


async def test_ten_thousand_flushed_prints_are_one_output_of_as_many_lines(
    daemon: ServedDaemon, opened: Opened
) -> None:
    async with open_thin_peer(daemon, opened) as peer:
        text = await stdout_of(peer, f"for n in range({LINES}): print('line', n, flush=True)")
        assert text == ALL_LINES


async def test_none_is_lost_while_the_daemon_is_stopped(daemon: ServedDaemon, opened: Opened) -> None:
    async with open_thin_peer(daemon, opened) as peer:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        cell_id = peer.add_cell(
            f"for n in range({LINES}): print('line', n, flush=True)\n"
            f"import socket; socket.create_connection(('127.0.0.1', {port})).close()\n"
            "print('end')"
        )
        execution_id = await peer.execute(cell_id)
        await peer.wait(lambda: peer.manifests(cell_id))
        daemon.send_signal(signal.SIGSTOP)
        try:
            # Not a wait for something: that so much time passes is what is tested.
            await trio.sleep(STOPPED_SECONDS)
            async with listener:
                await (await listener.accept()).aclose()  # the kernel has printed everything
        finally:
            daemon.send_signal(signal.SIGCONT)
        assert await peer.done(execution_id) == "done"
        [output] = await peer.outputs(cell_id)
        assert output["text"] == ALL_LINES + "end\n"


async def test_prints_that_are_not_flushed_are_all_there(daemon: ServedDaemon, opened: Opened) -> None:
    async with open_thin_peer(daemon, opened) as peer:
        assert await stdout_of(peer, f"for n in range({LINES}): print('line', n)") == ALL_LINES


async def test_five_megabytes_are_cut_nowhere(daemon: ServedDaemon, opened: Opened) -> None:
    async with open_thin_peer(daemon, opened) as peer:
        lines = [f"{n:07d} " + "x" * 91 for n in range(50_000)]
        text = await stdout_of(peer, "for n in range(50_000): print(f'{n:07d} ' + 'x' * 91)")
        assert text == "\n".join(lines) + "\n"
        [output] = await peer.show("'y' * 5_000_000")
        assert output["data"]["text/plain"] == repr("y" * 5_000_000)
        assert await stdout_of(peer, "print('z' * 5_000_000)") == "z" * 5_000_000 + "\n"


async def test_what_children_and_the_system_call_write_is_there(daemon: ServedDaemon, opened: Opened) -> None:
    async with open_thin_peer(daemon, opened) as peer:
        cell_id = peer.add_cell(
            "import os, subprocess, sys\n"
            "program = 'for n in range(2000): print(\"child\", n)'\n"
            "subprocess.run([sys.executable, '-c', program], check=True)\n"
            "for n in range(100): os.write(1, b'direct %d\\n' % n)\n"
        )
        assert await peer.run(cell_id) == "done"
        expected = [f"child {n}" for n in range(2000)] + [f"direct {n}" for n in range(100)]
        # A thread of the kernel reads it from a pipe: the end may come after the cell's.
        await peer.shows(cell_id, lambda outputs: [output["text"].splitlines() for output in outputs] == [expected])
