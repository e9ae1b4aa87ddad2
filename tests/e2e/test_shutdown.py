"""The end of the daemon: no one new is let in, what ran is ended, peers have the last state, and 5 s are enough for all."""

import signal
from pathlib import Path
from urllib.parse import urlsplit

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
