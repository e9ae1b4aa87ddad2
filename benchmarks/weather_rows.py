"""Rows of bad weather: floods beside people who work, peers that stop reading."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from benchmarks.bench import Bench
from benchmarks.daemon_under_test import Notebook
from benchmarks.measuring import p50, percentile, summary
from benchmarks.registry import compared, measured
from benchmarks.report import Row
from sync.client import open_notebook

ADD = "1+1"
ENDLESS = "n = 0\nwhile True:\n    n += 1\n    print('line', n, flush=True)"
PRINTS = "for i in range(100_000):\n    print('line', i, flush=True)"
MIB = 1024 * 1024
LINES = 100_000
# What can't be compressed, so that peers are sent as much.
HUNDRED_MEGABYTES = (
    "import random\nrng = random.Random(1)\n"
    f"for i in range({LINES // 20}):\n"
    "    print('\\n'.join(format(rng.getrandbits(3984), 'x').zfill(996) + f'{i % 10:03}' for _ in range(20)), flush=True)\n"
    "print('last')"
)


@asynccontextmanager
async def _flooded(bench: Bench, notebook: Notebook) -> AsyncIterator[None]:
    """Meanwhile the notebook's cell `flood` prints as fast as its kernel can; nobody watches it."""
    async with open_notebook(bench.daemon.url, token=bench.daemon.token, notebook=notebook.notebook) as opened:
        execution = await opened.cell("flood").execute()
        await opened.wait_for(lambda: opened.cell("flood").outputs)
    yield
    async with open_notebook(bench.daemon.url, token=bench.daemon.token, notebook=notebook.notebook) as opened:
        await opened.interrupt()
        await opened.wait_for(lambda: opened.runtime["executions"][execution.id]["status"] == "interrupted")


@measured
async def beside_a_flood(bench: Bench) -> list[Row]:
    """An execution while another notebook's kernel prints without an end, against one without."""
    rounds, count = 4, 40
    pairs, floors = [], []

    async def at_peer() -> list[float]:
        result = await bench.peer.call("execute", cell_id="add", count=count)
        return [1e3 * seconds for seconds in result["samples"]]

    async def at_floor() -> float:
        return p50(await bench.floor.call("execute", code=ADD, count=count))

    async with bench.notebook({"flood": ENDLESS}) as noisy, bench.notebook({"add": ADD}):
        await bench.peer.call("execute", cell_id="add", count=10)
        await at_floor()
        for _ in range(rounds):
            alone, floor = await at_peer(), await at_floor()
            async with _flooded(bench, noisy):
                pairs.append((alone, await at_peer()))
                floors.append((floor, await at_floor()))
    row = compared("execute beside another notebook's flood", "ms", pairs, goal=2)
    alone, beside = (p50([pair[i] for pair in floors]) for i in range(2))
    row.notes.append(
        f"the floor column is without it; jupyter_client itself: {beside / alone:.2f} x (the flooding kernel takes a core)"
    )
    return [row]


@measured
async def interrupts(bench: Bench) -> list[Row]:
    """From an interrupt, during 100 000 prints and with a completion under way, to the end of the execution at the peer."""
    async with bench.notebook({"prints": PRINTS}):
        ends = [await bench.peer.call("interrupt", cell_id="prints", complete="impor") for _ in range(20)]
    samples = [1e3 * end["seconds"] for end in ends]
    swallowed = sum(end["status"] == "done" for end in ends)
    row = Row("interrupt during 100 000 prints, p95", "ms", percentile(samples, 95), goal=500)
    row.notes.append(
        f"p50 {p50(samples):.0f} ms, longest {max(samples):.0f} ms, of {len(samples)}; the kernel swallowed {swallowed}"
    )
    row.details = summary(samples)
    return [row]


@measured
async def stalled_peer(bench: Bench) -> list[Row]:
    """100 MB of output at a peer that reads, with and without others beside it that stopped reading."""
    rounds, count = 3, 20
    pairs, rises = [], []
    async with bench.notebook({"big": HUNDRED_MEGABYTES}) as notebook:

        async def at_peer() -> tuple[float, float]:
            before = _resident(bench.daemon.pid)
            result = await bench.peer.call("flood", cell_id="big", last_line="last\n", outputs=1, texts=False)
            return result["seconds"], (_resident(bench.daemon.pid) - before) / MIB

        await at_peer()
        for _ in range(rounds):
            alone, growth = await at_peer()
            async with bench.crowd(count, notebook):
                for crowd in bench.crowds:
                    await crowd.call("stall")
                beside, with_stalled = await at_peer()
            pairs.append(([alone], [beside]))
            rises.append((with_stalled - growth) / count)
    row = compared(f"100 MB of output beside {count} stalled peers", "s", pairs, goal=1.1)
    row.notes.append("the floor column is without them")
    memory = Row("memory for a stalled peer", "MiB", p50(rises), goal=8)
    memory.notes.append(
        "what the daemon grew by in a run with them, less in one without, for each of them: "
        + ", ".join(f"{rise:.1f}" for rise in rises)
    )
    return [row, memory]


def _resident(pid: int) -> int:
    """Bytes of memory that a process holds; of Linux's proportional share where it tells."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return int(psutil.Process(pid).memory_info().rss)
    return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("Rss:")))
