"""The rows: each measures one promise of speed beside its floor, in the same run."""

from collections.abc import Awaitable, Callable
from uuid import uuid4

from benchmarks.bench import Bench, in_turn
from benchmarks.daemon_under_test import Notebook
from benchmarks.measuring import Spent, Watch, p50, summary
from benchmarks.registry import compared, measured, per
from benchmarks.report import Row
from benchmarks.workers import now
from tests.fakes.stock_peer import StockPeer, StockPeerError, open_stock_peer

ADD = "1+1"
LINES = 10_000
PRINTS = f"for i in range({LINES}):\n    print(f'line {{i}}', flush=True)"
PRINTED = "".join(f"line {i}\n" for i in range(LINES))
LAST_LINE = f"line {LINES - 1}\n"
DISPLAYS = 1_000
DISPLAY = (
    f"from IPython.display import HTML, display\nfor i in range({DISPLAYS}):\n    display(HTML(f'<b>value {{i}}</b>'))"
)
TICK = "import time\nfor i in range({count}):\n    print(i, flush=True)\n    time.sleep({pause})"
# Before anything is timed: kernels and daemon have then imported, compiled and cached what they will.
WARM_UP = 30


@measured
async def execute(bench: Bench) -> list[Row]:
    """`1+1` to `execution_done` at a peer that has the output."""
    rounds, count = 6, 60

    async def at_floor() -> list[float]:
        return [1e3 * s for s in await bench.floor.call("execute", code=ADD, count=count)]

    async with bench.notebook({"add": ADD}) as notebook:
        await bench.floor.call("execute", code=ADD, count=WARM_UP)
        await bench.peer.call("execute", cell_id="add", count=WARM_UP)
        spent: list[Spent] = []
        peer_cpu: list[float] = []

        async def at_peer() -> list[float]:
            watch = Watch(bench.daemon.pid)
            result = await bench.peer.call("execute", cell_id="add", count=count)
            spent.append(watch.spent())
            peer_cpu.append(result["cpu"])
            return [1e3 * s for s in result["samples"]]

        pairs = await in_turn(rounds, at_floor, at_peer)
        row = compared("execute 1+1", "ms", pairs, goal=1.3)
        row.notes.append(f"p99 {row.details['ours']['p99']:.1f} ms, floor {row.details['floor']['p99']:.1f} ms")
        row.notes.append(
            f"CPU per execution: daemon {per(spent, rounds * count)}, peer {1e6 * sum(peer_cpu) / rounds / count:.0f} us"
        )
        rows = [row, *await _with_stock_peer(bench, notebook, _stock_execute, "execute 1+1, stock JS peer", row)]
    row.notes.append(await _split(bench))
    return rows


async def _split(bench: Bench) -> str:
    """Where the time of an execution goes, by a daemon that notes when it talks to the kernel."""
    count = 100
    async with bench.watched_daemon("timeline") as (daemon, report), bench.notebook({"add": ADD}, daemon=daemon):
        await bench.peer.call("execute", cell_id="add", count=WARM_UP)
        await report()
        result = await bench.peer.call("execute", cell_id="add", count=count)
        seen = await report()
    moments = [
        (start, *seen[execution_id], end)
        for start, execution_id, end in zip(result["sent"], result["execution_ids"], result["done"], strict=True)
    ]
    head, kernel, tail = (p50([1e6 * (m[i + 1] - m[i]) for m in moments]) for i in range(3))
    return f"of it {head:.0f} us to the kernel, {kernel:.0f} us in it, {tail:.0f} us from its last message to the peer"


async def _stock_execute(peer: StockPeer, notebook: Notebook) -> tuple[list[float], list[str]]:
    samples = []
    for _ in range(WARM_UP + 100):
        start = now()
        execution_id = str(uuid4())
        await peer.request(notebook.notebook, "execute_cell", {"cell_id": "add", "execution_id": execution_id})
        await peer.wait_event(notebook.notebook, "execution_done", execution_id=execution_id)
        samples.append(1e3 * (now() - start))
    early = (await peer.report(notebook.notebook))["early"]
    return samples[WARM_UP:], [f"{early} events before their state; the pipe to the JS process is in it"]


@measured
async def flat(bench: Bench) -> list[Row]:
    """The thousandth execution costs what the first did, and a big notebook costs what a small one does."""

    async def at_floor() -> float:
        return p50(await bench.floor.call("execute", code=ADD, count=50))

    async with bench.notebook({"add": ADD}):
        await bench.floor.call("execute", code=ADD, count=WARM_UP)
        await bench.peer.call("execute", cell_id="add", count=WARM_UP)
        before = await at_floor()
        first = await _milliseconds(bench, 100)
        await bench.peer.call("execute", cell_id="add", count=800)
        last = await _milliseconds(bench, 100)
        after = await at_floor()
    row = compared("execution 900-1000 against 1-100", "ms", [(first, last)], goal=1.1)
    row.notes.append(f"the floor column is executions 1-100; jupyter_client itself: {after / before:.2f} x meanwhile")
    return [row, await _in_a_big_notebook(bench)]


async def _in_a_big_notebook(bench: Bench) -> Row:
    cells = {f"cell{number}": f"x = {number}" for number in range(500)}
    async with bench.notebook({"add": ADD}) as small, bench.notebook({"add": ADD, **cells}) as big:

        async def at(notebook: Notebook) -> list[float]:
            await bench.join(notebook, bench.daemon)
            await bench.peer.call("execute", cell_id="add", count=WARM_UP)
            return await _milliseconds(bench, 50)

        pairs = await in_turn(4, lambda: at(small), lambda: at(big))
    row = compared("execute in a notebook of 500 cells", "ms", pairs, goal=1.1)
    row.notes.append("the floor column is a notebook of one cell")
    return row


@measured
async def idle_peers(bench: Bench) -> list[Row]:
    """Peers that are connected and look at something else; and, to inform, as many that watch the same notebook."""
    count, rounds = 50, 4
    rows: list[Row] = []
    async with bench.notebook({"other": "2+2"}) as other, bench.notebook({"add": ADD}) as notebook:
        await bench.peer.call("execute", cell_id="add", count=WARM_UP)
        for name, watched, goal in (
            (f"execute, {count} peers idle in another notebook", other, 1.1),
            (f"execute, {count} peers watch the notebook", notebook, None),
        ):
            pairs = []
            for _ in range(rounds):
                alone = await _milliseconds(bench, 50)
                async with bench.crowd(count, watched):
                    pairs.append((alone, await _milliseconds(bench, 50)))
            rows.append(compared(name, "ms", pairs, goal=goal))
            rows[-1].notes.append("the floor column is without them")
    return rows


@measured
async def prints(bench: Bench) -> list[Row]:
    """10 000 flushed prints to the last line in the peer's document."""
    rounds = 3
    spent: list[Spent] = []
    commits: list[int] = []
    peer_cpu: list[float] = []

    async def at_floor() -> list[float]:
        return [(await bench.floor.call("prints", code=PRINTS, lines=LINES))["seconds"]]

    async with bench.notebook({"prints": PRINTS}) as notebook:
        await bench.peer.call("flood", cell_id="prints", last_line=LAST_LINE, outputs=1)
        await at_floor()

        async def at_peer() -> list[float]:
            before = await bench.daemon.count("commits")
            watch = Watch(bench.daemon.pid)
            result = await bench.peer.call("flood", cell_id="prints", last_line=LAST_LINE, outputs=1)
            spent.append(watch.spent())
            commits.append(await bench.daemon.count("commits") - before)
            peer_cpu.append(result["cpu"])
            assert result["texts"] == [PRINTED], f"{len(result['texts'])} outputs, or other lines"
            return [result["seconds"]]

        row = compared(f"{LINES} prints", "s", await in_turn(rounds, at_floor, at_peer), goal=1.2)
        row.notes.append(f"exact each time: 1 output, {LINES} lines (the floor's queues are lifted too, or it loses)")
        row.notes.append(
            f"per line: daemon {per(spent, rounds * LINES)}, peer {1e6 * sum(peer_cpu) / rounds / LINES:.0f} us;"
            f" commits {sum(commits) // rounds}"
        )
        return [row, *await _with_stock_peer(bench, notebook, _stock_prints, f"{LINES} prints, stock JS peer", row)]


async def _stock_prints(peer: StockPeer, notebook: Notebook) -> tuple[list[float], list[str]]:
    start = now()
    execution_id = str(uuid4())
    await peer.request(notebook.notebook, "execute_cell", {"cell_id": "prints", "execution_id": execution_id})
    await peer.wait_event(notebook.notebook, "execution_done", execution_id=execution_id)
    seconds = now() - start
    outputs = await peer.doc(notebook.runtime, ["cells", "prints", "outputs"])
    assert len(outputs) == 1
    return [seconds], ["one run, to execution_done"]


@measured
async def displays(bench: Bench) -> list[Row]:
    """1 000 display_data to the last of them in the peer's document."""
    rounds = 5
    spent: list[Spent] = []
    peer_cpu: list[float] = []
    expected = [f"<b>value {i}</b>" for i in range(DISPLAYS)]

    async def at_floor() -> list[float]:
        return [
            1e3 * (await bench.floor.call("flood", code=DISPLAY, msg_type="display_data", count=DISPLAYS))["seconds"]
        ]

    async with bench.notebook({"displays": DISPLAY}):
        await bench.peer.call("flood", cell_id="displays", last_line=None, outputs=DISPLAYS)
        await at_floor()

        async def at_peer() -> list[float]:
            watch = Watch(bench.daemon.pid)
            result = await bench.peer.call("flood", cell_id="displays", last_line=None, outputs=DISPLAYS)
            spent.append(watch.spent())
            peer_cpu.append(result["cpu"])
            assert [data["text/html"] for data in result["data"]] == expected
            return [1e3 * result["seconds"]]

        row = compared(f"{DISPLAYS} display_data", "ms", await in_turn(rounds, at_floor, at_peer), goal=1.5)
        row.notes.append(
            f"per output: daemon {per(spent, rounds * DISPLAYS)}, peer {1e6 * sum(peer_cpu) / rounds / DISPLAYS:.0f} us"
        )
        return [row]


@measured
async def hundred_peers(bench: Bench) -> list[Row]:
    """What a commit costs the daemon for each of 100 peers, their acknowledgements included."""
    count, seconds = 100, 5
    rows: list[Row] = []
    for rate in (10, 30):
        code = TICK.format(count=rate * seconds, pause=1 / rate)
        async with bench.notebook({"warm": ADD, "tick": code}) as notebook, bench.crowd(count - 1, notebook):
            await bench.peer.call("execute", cell_id="warm", count=3)
            await bench.peer.call("start", cell_id="tick")
            before = await bench.daemon.count("commits")
            frames = [await crowd.call("frames") for crowd in bench.crowds]
            watch = Watch(bench.daemon.pid)
            await bench.peer.call("finish")
            spent = watch.spent()
            commits = await bench.daemon.count("commits") - before
            received = sum([await crowd.call("frames") for crowd in bench.crowds]) - sum(frames)
        if spent.running is None or spent.waiting is None:
            return []
        row = Row(f"{count} peers, {rate} commits/s", "us", 1e6 * spent.running / commits / count, goal=200)
        row.notes.append(
            f"CPU per commit and peer; {commits} commits, {received / commits / (count - 1):.2f} frames per commit and peer,"
            f" {100 * spent.running / seconds:.0f} % of a core (and {100 * spent.waiting / seconds:.0f} % waited for one)"
        )
        rows.append(row)
    return rows


@measured
async def pauses(bench: Bench) -> list[Row]:
    """The longest step of a task in the daemon's loop, in what the other rows do and with a big notebook."""
    rows: list[Row] = []

    async def note(name: str) -> None:
        seen = await report()
        worst = seen["worst"][0]
        row = Row(f"longest pause, {name}", "ms", 1e3 * worst["seconds"], goal=20)
        row.notes.append(
            f"in {worst['task'].rpartition('.')[2]}, {1e3 * worst['collecting']:.1f} ms of it collecting garbage;"
            f" longest round of the loop {1e3 * seen['longest_round']:.1f} ms, {seen['steps']} steps"
        )
        row.details = seen
        rows.append(row)

    big = {f"cell{number}": f"value = {number}\n" * 20 for number in range(1_000)}
    async with bench.watched_daemon("pauses") as (daemon, report):
        async with bench.notebook({"add": ADD, "prints": PRINTS, "displays": DISPLAY}, daemon=daemon):
            await bench.peer.call("execute", cell_id="add", count=WARM_UP)
            await report()
            await bench.peer.call("execute", cell_id="add", count=100)
            await note("100 x 1+1")
            await bench.peer.call("flood", cell_id="prints", last_line=LAST_LINE, outputs=1)
            await note(f"{LINES} prints")
            await bench.peer.call("flood", cell_id="displays", last_line=None, outputs=DISPLAYS)
            await note(f"{DISPLAYS} display_data")
        await report()
        async with bench.notebook({"add": ADD, **big}, daemon=daemon, outputs=3) as notebook:
            await note("loading 1 000 cells, 3 000 outputs")
            seconds = await bench.join(notebook, daemon)
            await note("a late join of it")
            rows[-1].notes.append(f"the join took {1e3 * seconds:.0f} ms")
            await bench.peer.call("execute", cell_id="add", count=20)
            await note("20 x 1+1 in it")
            await bench.peer.call("save")
            await note("saving it")
    async with (
        bench.watched_daemon("roll-overs") as (daemon, report),
        bench.notebook({"add": ADD, **big}, daemon=daemon, outputs=3),
    ):
        await bench.peer.call("execute", cell_id="add", count=1)
        await report()
        samples = await _milliseconds(bench, 200)
        roll_overs = await daemon.count("roll_overs")
        await note("roll-overs of it")
        rows[-1].notes.append(
            f"{roll_overs} in {len(samples)} x 1+1, which took {p50(samples):.1f} ms (p50),"
            f" {max(samples):.0f} ms at most"
        )
    return rows


async def _milliseconds(bench: Bench, count: int) -> list[float]:
    result = await bench.peer.call("execute", cell_id="add", count=count)
    return [1e3 * seconds for seconds in result["samples"]]


async def _with_stock_peer(
    bench: Bench,
    notebook: Notebook,
    measure: Callable[[StockPeer, Notebook], Awaitable[tuple[list[float], list[str]]]],
    name: str,
    beside: Row,
) -> list[Row]:
    try:
        async with open_stock_peer(bench.daemon.sync_url, bench.daemon.token) as peer:
            await peer.find(notebook.notebook)
            await peer.find(notebook.runtime)
            await peer.record(notebook.notebook)
            samples, notes = await measure(peer, notebook)
    except StockPeerError as error:
        beside.notes.append(f"no stock JS peer: {error}")
        return []
    row = Row(name, beside.unit, p50(samples), beside.floor, notes=notes)
    row.details = {"ours": summary(samples)}
    return [row]
