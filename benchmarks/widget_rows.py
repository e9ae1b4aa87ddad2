"""Rows of widgets: what the kernel says of comms, beside what jupyter_client needs to hear the same."""

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Flood:
    """Something that a kernel says of widgets, fast.

    Attributes:
        name: of the row.
        setup: code that runs once.
        before: code that runs before each round, not timed.
        code: what is timed.
        floor: the type of message that jupyter_client counts, and how many end its time.
        command, parameters: what the peer is told to wait for.
        items: how many things happen in one round.
        goal: the largest ratio, where there is one.
    """

    name: str
    setup: str
    before: str
    code: str
    floor: tuple[str, int]
    command: str
    parameters: dict[str, Any]
    items: int
    goal: float | None = None

    async def measure(self, bench: Bench, rounds: int = 5) -> list[Row]:
        """One row, of floor and daemon in turn."""
        spent: list[Spent] = []
        msg_type, count = self.floor

        async def at_floor() -> list[float]:
            await bench.floor.call("run", code=self.before)
            return [1e3 * (await bench.floor.call("flood", code=self.code, msg_type=msg_type, count=count))["seconds"]]

        async def at_peer() -> list[float]:
            await bench.peer.call("run", cell_id="before")
            watch = Watch(bench.daemon.pid)
            result = await bench.peer.call(self.command, cell_id="code", **self.parameters)
            spent.append(watch.spent())
            return [1e3 * result["seconds"]]

        async with bench.notebook({"setup": self.setup, "before": self.before, "code": self.code}):
            await bench.floor.call("run", code=self.setup)
            await bench.peer.call("run", cell_id="setup")
            await at_floor()
            await at_peer()
            spent.clear()
            row = compared(self.name, "ms", await in_turn(rounds, at_floor, at_peer), goal=self.goal)
        row.notes.append(f"per item: daemon {per(spent, rounds * self.items)}")
        return [row]


@measured
async def slider_updates(bench: Bench) -> list[Row]:
    """1 000 values of one slider to the last of them in the peer's document."""
    flood = Flood(
        f"{UPDATES} slider updates",
        setup=f"{IMPORTS}\ns = w.IntSlider(max=10_000)",
        before="s.value = 0",
        code=f"for i in range(1, {UPDATES + 1}):\n    s.value = i",
        floor=("comm_msg", UPDATES),
        command="trait",
        parameters={"model": "IntSliderModel", "trait": "value", "value": UPDATES},
        items=UPDATES,
        goal=1.0,
    )
    return await flood.measure(bench)


@measured
async def sliders_opened(bench: Bench) -> list[Row]:
    """200 sliders, 600 comms, opened, to the last of them in the peer's document."""
    flood = Flood(
        f"{SLIDERS} sliders ({COMMS} comms) opened",
        setup=IMPORTS,
        before=CLOSE,
        code=f"sliders = [w.IntSlider(n) for n in range({SLIDERS})]",
        floor=("comm_open", COMMS),
        command="comms",
        parameters={"count": COMMS},
        items=COMMS,
    )
    return await flood.measure(bench)


@measured
async def captured_outputs(bench: Bench) -> list[Row]:
    """2 000 displays within an Output widget to the last of them in the peer's document."""
    flood = Flood(
        f"{CAPTURED} captured outputs",
        setup=f"{IMPORTS}\nout = w.Output()",
        before="out.outputs = ()",
        code=f"with out:\n    for i in range({CAPTURED}):\n        display(i)",
        floor=("display_data", CAPTURED),
        command="captured",
        parameters={"count": CAPTURED},
        items=CAPTURED,
    )
    return await flood.measure(bench)


@measured
async def nested_state(bench: Bench) -> list[Row]:
    """A comm_open with 87 KB of nested state, to the comm in the peer's document."""
    flood = Flood(
        "comm_open with 87 KB of nested state",
        setup=f"{IMPORTS}\n{NESTED}",
        before=CLOSE,
        code="nested = Nested(value=tree)",
        floor=("comm_open", 2),
        command="comms",
        parameters={"count": 2, "largest": NESTED_BYTES},
        items=1,
    )
    return await flood.measure(bench, rounds=10)


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
