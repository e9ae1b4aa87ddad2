"""The end of the daemon: no one new is let in, what ran is ended, peers have the last state, and 5 s are enough for all."""

import json
import os
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import psutil
import pytest
import trio

from sync.client import ConnectionLost, open_notebook
from tests.e2e.test_dead_peers import open_documents
from tests.fakes.daemon_process import running_daemon
from tests.fakes.stock_peer import open_stock_peer
from tests.fakes.tcp_proxy import Fault, wire_to
from tests.fakes.thin_peer import open_thin_peer
from tests.fakes.weather import Documents, Through

STOP_SECONDS = 7.0  # SIGTERM to exit: 5 s at most, and the end of the interpreter on a loaded machine
ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DEAF = (
    "import signal\nfor name in ('SIGINT', 'SIGTERM'): signal.signal(signal.Signals[name], signal.SIG_IGN)\n"
    "print('in', flush=True)\nwhile True: pass"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_peers_of_all_kinds_have_the_last_state_and_one_that_is_stalled_holds_up_nobody(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with running_daemon(tmp_path) as daemon, wire_to(daemon.url) as wire:
        documents = await open_documents(daemon)
        other = await daemon.open("other.ipynb", create=True)
        wire.plan = lambda: Fault("to_client", stall_after_bytes=30_000, stall_seconds=1_000)
        options = {"token": daemon.token, "notebook": documents.notebook, "reconnect_seconds": 0.5}
        async with (
            open_thin_peer(daemon, documents) as thin,
            open_thin_peer(Through(wire.url, daemon.token), documents),
            open_thin_peer(daemon, Documents(other["notebook"], other["runtime"])) as elsewhere,
            open_stock_peer(daemon.sync_url, daemon.token, tolerate_faults=True) as stock,
            open_notebook(daemon.url, **options) as nb,  # type: ignore[arg-type]  # of several types
        ):
            await stock.record(documents.notebook)
            await stock.find(documents.notebook)
            await stock.find(documents.runtime)
            flood = thin.add_cell("print('y' * 100_000)")
            while not wire.faults_met:
                assert await thin.run(flood) == "done"
            running = await nb.add_cell("import time\nprint('in', flush=True)\ntime.sleep(1000)").execute()
            queued = [await nb.add_cell("1").execute() for _ in range(5)]
            deaf = elsewhere.add_cell(DEAF)
            stubborn = await elsewhere.execute(deaf)
            await elsewhere.wait(lambda: elsewhere.manifests(deaf))
            await thin.event("execution_started", execution_id=running.id)
            kernels = psutil.Process(daemon.process.pid).children()

            begun = trio.current_time()
            daemon.signal(number)
            # All hear the end at once, though a kernel that is deaf takes 3 s to be ended.
            assert await elsewhere.done(stubborn) == "interrupted"
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream("127.0.0.1", urlsplit(daemon.url).port or 0)
            assert await thin.done(running.id) == "interrupted"
            assert {await thin.done(execution.id) for execution in queued} == {"cancelled"}
            # What comes too late says so, or is lost with the connection.
            assert (await running.result()).status == "interrupted"
            assert {(await execution.result()).status for execution in queued} == {"cancelled"}
            await stock.wait_event(documents.notebook, "execution_done", execution_id=running.id)
            await thin.ended.wait()
            with pytest.raises(ConnectionLost):
                await nb.wait_for(lambda: False)
            await daemon.process.wait()
            took = trio.current_time() - begun

            assert daemon.process.returncode == 0
            assert took < STOP_SECONDS
            assert not any(kernel.is_running() for kernel in kernels)
            for peer in (thin, elsewhere):
                assert peer.read("kernel", "status") == "not_started"
                assert peer.read("queue") == {"executing": None, "queued": []}
            assert (nb.kernel_status, nb.queue) == ("not_started", {"executing": None, "queued": []})
            assert await stock.doc(documents.runtime, ["kernel", "status"]) == "not_started"
            heads = sorted(thin.runtime.replica.heads())
            assert sorted(nb.runtime_replica.heads()) == heads
            assert sorted(await stock.heads(documents.runtime)) == [head.hex() for head in heads]
            assert (await stock.report(documents.notebook))["early"] == 0


@pytest.mark.parametrize("first", ENDINGS)
async def test_further_signals_change_nothing_to_the_last_moment_of_the_process(
    tmp_path: Path, first: signal.Signals
) -> None:
    async with running_daemon(tmp_path) as daemon:
        async with open_notebook(
            daemon.url, token=daemon.token, path="n.ipynb", create=True, reconnect_seconds=0
        ) as nb:
            await (await nb.add_cell("print('saved')").execute()).result()
            daemon.signal(first)
            while daemon.process.returncode is None:
                for number in ENDINGS:
                    daemon.signal(number)
                with trio.move_on_after(0.002):  # as fast as a person never is, for as long as there is a process
                    await daemon.process.wait()
        assert daemon.process.returncode == 0
        assert nbformat.read(daemon.root / "n.ipynb", 4).cells[0].outputs[0].text == "saved\n"
        assert not (tmp_path / "state" / "daemon.json").exists()


async def test_a_terminal_that_is_closed_ends_the_daemon_as_sigterm_does(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    take_it = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
    )
    serve = [sys.executable, "-m", "daemon", "serve", "--port", "0", "--root", str(tmp_path), "--state-dir"]
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", take_it, *serve, str(tmp_path / "state")],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    )
    os.close(theirs)
    said = b""
    while b"listening" not in said:
        await trio.lowlevel.wait_readable(ours)
        said += os.read(ours, 65536)
    info = json.loads((tmp_path / "state" / "daemon.json").read_text())
    async with open_notebook(info["url"], token=info["token"], path="n.ipynb", create=True, reconnect_seconds=0) as nb:
        running = await nb.add_cell("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(1000)").execute()
        outputs = await nb.wait_for(lambda: nb.cells[0].outputs)
        os.close(ours)
        assert (await running.result()).status == "interrupted"
        assert await process.wait() == 0
    assert nbformat.read(tmp_path / "n.ipynb", 4).cells[0].outputs[0].text == outputs[0].text
    assert not psutil.pid_exists(int(outputs[0].text))
    assert not (tmp_path / "state" / "daemon.json").exists()


async def test_under_nohup_it_outlives_its_terminal(tmp_path: Path) -> None:
    hup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with running_daemon(tmp_path) as daemon:
            daemon.signal(signal.SIGHUP)
            assert (await daemon.get("/api/status")).status_code == 200
            daemon.signal(signal.SIGTERM)
            assert await daemon.process.wait() == 0
    finally:
        signal.signal(signal.SIGHUP, hup)
    assert b"signal=SIGTERM" in daemon.stderr
