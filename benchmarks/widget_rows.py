"""Rows of widgets: what the kernel says of comms, beside what jupyter_client needs to hear the same."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from benchmarks.bench import Bench, in_turn
from benchmarks.daemon_under_test import Notebook
from benchmarks.measuring import Spent, Watch, p50
from benchmarks.registry import compared, measured, per
from benchmarks.report import Row
from benchmarks.workers import now
from tests.fakes.stock_peer import StockPeerError, open_stock_peer

IMPORTS = "import ipywidgets as w\nfrom IPython.display import display"
CLOSE = "w.Widget.close_all()"
UPDATES = 1_000
SLIDERS = 200
COMMS = 3 * SLIDERS  # each has a layout and a style
CAPTURED = 2_000
NESTED_BYTES = 87_000
NESTED = (
    "import traitlets\nclass Nested(w.DOMWidget):\n    _model_name = traitlets.Unicode('NestedModel').tag(sync=True)\n"
    "    value = traitlets.Dict().tag(sync=True)\n"
    "def nest(depth, n):\n    return {'leaf': 'x' * 48, **({f'k{i}': nest(depth - 1, n) for i in range(n)} if depth else {})}\n"
    "tree = nest(5, 4)"
)
OPEN_NESTED = "nested = Nested(value=tree)"


async def _flood(
    bench: Bench,
    name: str,
    *,
    goal: float | None,
    setup: str,
    before: str,
    code: str,
    floor: tuple[str, int],
    ours: Callable[[], Awaitable[dict[str, Any]]],
    items: int,
    rounds: int = 5,
) -> Row:
    """One row: `before` and `code` run in each round, the second is timed, to the last of so many messages or to what
    `ours` waits for. The notebook has the cells setup, before and code.
    """
    spent: list[Spent] = []
    msg_type, count = floor

    async def at_floor() -> list[float]:
        await bench.floor.call("run", code=before)
        return [1e3 * (await bench.floor.call("flood", code=code, msg_type=msg_type, count=count))["seconds"]]

    async def at_peer() -> list[float]:
        await bench.peer.call("run", cell_id="before")
        watch = Watch(bench.daemon.pid)
        result = await ours()
        spent.append(watch.spent())
        return [1e3 * result["seconds"]]

    await bench.floor.call("run", code=setup)
    await bench.peer.call("run", cell_id="setup")
    await at_floor()
    await at_peer()
    spent.clear()
    row = compared(name, "ms", await in_turn(rounds, at_floor, at_peer), goal=goal)
    row.notes.append(f"per item: daemon {per(spent, rounds * items)}")
    return row


def _cells(setup: str, before: str, code: str) -> dict[str, str]:
    return {"setup": setup, "before": before, "code": code}


@measured
async def slider_updates(bench: Bench) -> list[Row]:
    """1 000 values of one slider to the last of them in the peer's document."""
    setup = f"{IMPORTS}\ns = w.IntSlider(max=10_000)"
    code = f"for i in range(1, {UPDATES + 1}):\n    s.value = i"
    async with bench.notebook(_cells(setup, "s.value = 0", code)):

        async def ours() -> dict[str, Any]:
            seen: dict[str, Any] = await bench.peer.call(
                "trait", cell_id="code", model="IntSliderModel", trait="value", value=UPDATES
            )
            return seen

        row = await _flood(
            bench,
            f"{UPDATES} slider updates",
            goal=1.0,
            setup=setup,
            before="s.value = 0",
            code=code,
            floor=("comm_msg", UPDATES),
            ours=ours,
            items=UPDATES,
        )
    return [row]


@measured
async def sliders_opened(bench: Bench) -> list[Row]:
    """200 sliders, 600 comms, opened, to the last of them in the peer's document."""
    code = f"sliders = [w.IntSlider(n) for n in range({SLIDERS})]"
    async with bench.notebook(_cells(IMPORTS, CLOSE, code)):

        async def ours() -> dict[str, Any]:
            seen: dict[str, Any] = await bench.peer.call("comms", cell_id="code", count=COMMS)
            return seen

        row = await _flood(
            bench,
            f"{SLIDERS} sliders ({COMMS} comms) opened",
            goal=None,
            setup=IMPORTS,
            before=CLOSE,
            code=code,
            floor=("comm_open", COMMS),
            ours=ours,
            items=COMMS,
        )
    return [row]


@measured
async def captured_outputs(bench: Bench) -> list[Row]:
    """2 000 displays within an Output widget to the last of them in the peer's document; and what the kernel is sent back."""
    setup = f"{IMPORTS}\nout = w.Output()"
    code = f"with out:\n    for i in range({CAPTURED}):\n        display(i)"
    async with bench.notebook(_cells(setup, "out.outputs = ()", code)):

        async def ours() -> dict[str, Any]:
            seen: dict[str, Any] = await bench.peer.call("captured", cell_id="code", count=CAPTURED)
            return seen

        row = await _flood(
            bench,
            f"{CAPTURED} captured outputs",
            goal=None,
            setup=setup,
            before="out.outputs = ()",
            code=code,
            floor=("display_data", CAPTURED),
            ours=ours,
            items=CAPTURED,
        )
    return [row]


@measured
async def nested_state(bench: Bench) -> list[Row]:
    """A comm_open with 87 KB of nested state, to the comm in the peer's document."""
    setup = f"{IMPORTS}\n{NESTED}"
    async with bench.notebook(_cells(setup, CLOSE, OPEN_NESTED)):

        async def ours() -> dict[str, Any]:
            seen: dict[str, Any] = await bench.peer.call("comms", cell_id="code", count=2)
            size = seen["largest"]
            assert size > NESTED_BYTES, f"{size} bytes of state"
            return seen

        row = await _flood(
            bench,
            "comm_open with 87 KB of nested state",
            goal=None,
            setup=setup,
            before=CLOSE,
            code=OPEN_NESTED,
            floor=("comm_open", 2),
            ours=ours,
            items=1,
            rounds=10,
        )
    return [row]


@measured
async def late_join(bench: Bench) -> list[Row]:
    """A peer that comes to 1 000 cells, 3 000 outputs and 200 sliders, against loading the same documents in process."""
    cells = {f"cell{number}": f"value = {number}\nprint(value)\n" * 15 for number in range(1_000)}
    code = f"{IMPORTS}\nsliders = [w.IntSlider(n) for n in range({SLIDERS})]"
    rows: list[Row] = []
    async with bench.notebook({"sliders": code, **cells}, outputs=3) as notebook:
        await bench.peer.call("comms", cell_id="sliders", count=COMMS)
        await bench.join(notebook, bench.daemon)  # what comes late is sent a document that was made meanwhile
        joins, loads = [], []
        for _ in range(5):
            joins.append(1e3 * await bench.join(notebook, bench.daemon))
            loads.append(1e3 * await bench.peer.call("load"))
        row = compared("late join: 1 000 cells, 3 000 outputs, 600 comms", "ms", [(loads, joins)], goal=1.5)
        row.notes.append("the floor column loads both documents, saved, in the same process")
        rows.append(row)
        try:
            rows.append(await _stock_join(bench, notebook))
        except StockPeerError as error:
            row.notes.append(f"no stock JS peer: {error}")
    return rows


async def _stock_join(bench: Bench, notebook: Notebook) -> Row:
    samples = []
    for _ in range(3):
        async with open_stock_peer(bench.daemon.sync_url, bench.daemon.token) as peer:
            start = now()
            async with trio.open_nursery() as nursery:
                for url in (notebook.notebook, notebook.runtime):
                    nursery.start_soon(peer.find, url)
            await peer.wait(notebook.runtime, f"Object.keys(doc.comms).length == {COMMS}")
            samples.append(1e3 * (now() - start))
    row = Row("late join, stock JS peer", "ms", p50(samples), goal=1500)
    row.notes.append("a fresh node process each time, from its handshake to both documents")
    return row
