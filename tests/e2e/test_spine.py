"""The main job, end to end: a real daemon, a real kernel, a stock automerge-repo peer."""

import shutil
from pathlib import Path

from tests.fakes.daemon_process import running_daemon
from tests.fakes.stock_peer import open_stock_peer

TOUR = Path(__file__).parents[2] / "daemon" / "examples" / "tour.ipynb"


async def test_a_stock_peer_runs_the_bundled_notebook_and_a_late_one_has_everything(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        shutil.copy(TOUR, daemon.root / "tour.ipynb")
        opened = await daemon.open("tour.ipynb")
        async with open_stock_peer(daemon.sync_url, daemon.token) as peer:
            await peer.find(opened["notebook"])
            await peer.find(opened["runtime"])
            await peer.record(opened["notebook"])
            await peer.wait_value(opened["runtime"], ["file", "status"], "ready")
            result = await peer.request(opened["notebook"], "run_all_cells", {"stop_on_error": False})
            executions = result["result"]["executions"]
            assert len(executions) == 7
            await peer.wait(
                opened["runtime"],
                "Object.values(doc.executions).length === 7 && "
                "Object.values(doc.executions).every(e => ['done', 'error'].includes(String(e.status)))",
                within=40,
            )
            doc = await peer.doc(opened["runtime"])
            assert [doc["executions"][e["execution_id"]]["status"] for e in executions] == [
                "done",
                "error",
                "done",
                "done",
                "done",
                "done",
                "done",
            ]
            async with open_stock_peer(daemon.sync_url, daemon.token) as late:
                await late.find(opened["notebook"])
                await late.find(opened["runtime"])
                assert await late.doc(opened["runtime"]) == await peer.doc(opened["runtime"])
            report = await peer.report(opened["notebook"])
            assert report["early"] == 0
