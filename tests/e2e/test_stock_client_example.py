"""The stock client of docs/, as its reader would run it."""

import shutil
from pathlib import Path

from tests.e2e.notebooks import Notebook
from tests.fakes.daemon_process import running_daemon
from tests.fakes.stock_peer import run_stock_client

ROOT = Path(__file__).parents[2]
TOUR = ROOT / "daemon" / "examples" / "tour.ipynb"
EXAMPLE = ROOT / "docs" / "stock_client.mjs"


def test_it_has_30_lines() -> None:
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("//")]
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 128


async def test_the_stock_client_of_the_docs_lists_cells_and_decodes_outputs(tmp_path: Path) -> None:
    """After the bundled notebook has run: cells in order, and text, error, image, table, terminal lines as they are."""
    folder = tmp_path / "reader"
    folder.mkdir()
    async with running_daemon(tmp_path) as daemon:
        shutil.copy(TOUR, daemon.root / "tour.ipynb")
        opened = await daemon.open("tour.ipynb")
        notebook = Notebook(daemon, opened["id"], opened["notebook"], opened["runtime"])
        async with notebook.joined() as peer:
            executions = (await notebook.ask(peer, "run_all_cells", stop_on_error=False))["executions"]
            for execution in executions:
                await peer.wait_event(notebook.url, "execution_done", execution_id=execution["execution_id"], within=45)
        listing = await run_stock_client(folder, daemon.sync_url, daemon.token, notebook.url)
    cells = {head.split()[1]: text for head, _, text in (part.partition("\n") for part in listing.split("--- ")[1:])}
    assert list(cells) == [f"tour-{number:02}" for number in range(1, 9)]
    assert listing.startswith("--- markdown tour-01\n# A tour of a live notebook\n")
    assert "says hello\na second line,\tand a tab\n" in cells["tour-02"]
    assert "text/plain: 6.283185307179586" in cells["tour-02"]
    assert "ZeroDivisionError" in cells["tour-03"]
    assert "division by zero" in cells["tour-03"]
    (image,) = [line for line in cells["tour-04"].splitlines() if line.startswith("image/png: ")]
    assert image.endswith(" bytes")
    assert int(image.split()[1]) > 1000
    assert "<th>square</th>" in cells["tour-05"]
    assert "5 |       25 |    2.236" in cells["tour-05"]
    assert "[####################] 100 % done" in cells["tour-06"]
    assert cells["tour-06"].count("[#") == 1  # one line, rewritten as a terminal does
    assert "ticking: 10" in cells["tour-07"]
    assert "ticking: 9" not in cells["tour-07"]
    assert "step 4 of 4 is done" in cells["tour-08"]
    assert "the end" in cells["tour-08"].splitlines()[-1]
