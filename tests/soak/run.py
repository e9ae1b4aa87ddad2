"""One soak: a daemon of its own, twenty peers that come and go, and what that leaves behind.

Two things are looked at. Over time: the lines through the samples must be flat. At the end, when the peers are gone and the
notebooks closed: what was taken must be given back, tasks and file descriptors to the last one.
"""

import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import trio

from tests.e2e.conftest import make_home
from tests.fakes.daemon_process import DaemonProcess, running_daemon
from tests.soak.books import Book
from tests.soak.flatness import Trend, trend
from tests.soak.sampling import INTERVAL, Sampler, plot
from tests.soak.seats import Kind, Seat, client, stock, thin

KINDS: tuple[Kind, ...] = (*[thin] * 10, *[client] * 7, *[stock] * 3)
# About three things a second, all peers together: a quarter of a core (measured), daemon, kernels and peers.
PAUSE = 6.0
# A notebook that is closed and opened again lives so long: some of these in ten minutes, dozens in an hour.
LIFE = 150.0
# Threads of Trio's cache end after this many seconds without work.
THREADS_IDLE = 12.0

# Nothing but a leak grows with time where the documents do not; but a fresh heap still spreads, and what a document takes is
# known only as so much for each operation of its history (which a notebook that stays open never loses).
RSS_RISE_SHARE = 0.05
# After the last notebook: what the allocator keeps of the biggest moment, not what is used; half an hour and two hours left
# 23, 18 and 25. A kernel's own life, or a peer's visit that left 10 KiB behind, would add 15 in an hour (1 500 visits).
RSS_LEFT_MIB = 30.0


@dataclass
class Result:
    """What a soak found; `faults` are sentences, none if all is flat."""

    seconds: float
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    trends: dict[str, Trend] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        """One line."""
        trends = {name: {key: round(value, 3) for key, value in vars(t).items()} for name, t in self.trends.items()}
        return json.dumps({**vars(self), "counts": dict(sorted(self.counts.items())), "trends": trends})


async def soak(seconds: float, seed: int, folder: Path) -> Result:
    """Runs for so many seconds (and a minute around), loopback only; leaves soak.csv and soak.png in `folder`."""
    result = Result(seconds, seed)
    with tempfile.TemporaryDirectory(prefix="nb-", ignore_cleanup_errors=True) as name:
        environment = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
        environment |= make_home(Path(name) / "home")
        async with running_daemon(Path(name), "--log-format", "json", environment=environment) as daemon:
            sampler = Sampler(daemon, folder / "soak.csv")
            books = [Book(daemon, f"book-{number}.ipynb", result.counts) for number in range(4)]
            for book in books:
                book.write()
            await _visit_all(daemon, books, seed)
            result.before = await _at_rest(sampler, 0.0)
            sampler.samples.clear()
            await _run(seconds, seed, daemon, books, sampler, result)
            # By what the daemon has: the end may have come while one was being closed or opened.
            for room in (await daemon.get("/api/notebooks")).json()["notebooks"]:
                await daemon.delete(f"/api/notebooks/{room['id']}")
            result.after = await _at_rest(sampler, seconds)
            samples = sampler.samples[:-1]
            plot(samples, folder / "soak.png", f"soak of {seconds:.0f} s, seed {seed}: {len(KINDS)} peers")
        result.faults += _errors(daemon.stderr)
    _judge(result, samples)
    return result


async def _visit_all(daemon: DaemonProcess, books: list[Book], seed: int) -> None:
    """Each kind of peer once in each notebook, kernel and all: what is loaded and made once is then there."""
    rng = Random(seed)
    for book in books:
        await book.open()
        for kind in (thin, client, stock):
            assert book.notebook is not None
            async with kind(daemon, book.notebook) as hands:
                cells = await hands.cells()
                for cell_id in cells if kind is thin else cells[:1]:
                    await hands.execute(cell_id)
                await hands.ask("save_notebook")
                await hands.ask("complete", code="pri", cursor_pos=3)
        await book.close(rng)


async def _at_rest(sampler: Sampler, seconds: float) -> dict[str, float]:
    """A sample when nobody is there, and idle threads have ended."""
    await trio.sleep(THREADS_IDLE)
    return await sampler.sample(seconds, 0)


async def _run(
    seconds: float, seed: int, daemon: DaemonProcess, books: list[Book], sampler: Sampler, result: Result
) -> None:
    for book in books:
        await book.open()
    began = trio.current_time()
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number, kind in enumerate(KINDS):
                seat = Seat(number, kind, books, Random(f"{seed}/{number}"), PAUSE, result.counts)
                nursery.start_soon(seat.run, daemon)
            for number, book in enumerate(books[1:]):
                nursery.start_soon(book.live, Random(f"{seed}/book/{number}"), LIFE)
            for number in range(math.ceil(seconds / INTERVAL)):
                await trio.sleep_until(began + number * INTERVAL)
                visits = sum(count for name, count in result.counts.items() if name.startswith("visits"))
                sample = await sampler.sample(trio.current_time() - began, visits)
                print({name: round(value, 2) for name, value in sample.items()}, flush=True)


def _judge(result: Result, samples: list[dict[str, float]]) -> None:
    for figure in ("fds", "threads", "tasks"):
        found = result.trends[figure] = trend(samples, figure, "peers")
        # Whatever leaks one does so each time that something happens; the rarest thing is a notebook that is opened again.
        bound = max(result.counts["openings"] / 2, 2)
        if found.exceeds(bound):
            result.faults.append(f"{figure} rose by {found.rise:.1f} ± {found.error:.1f}, {bound:.0f} are allowed")
    memory = result.trends["rss_mib"] = trend(samples, "rss_mib", "operations")
    if memory.exceeds(RSS_RISE_SHARE * memory.mean):
        result.faults.append(
            f"RSS rose by {memory.rise:.1f} ± {memory.error:.1f} MiB beside what documents explain "
            f"({memory.explained:.1f}); {RSS_RISE_SHARE * memory.mean:.1f} are allowed"
        )
    # The request that asks is itself served by five or six tasks, as it happens.
    for figure, more in (("fds", 0), ("threads", 0), ("tasks", 1)):
        if result.after[figure] > result.before[figure] + more:
            rest = f"{result.before[figure]:.0f} before, {result.after[figure]:.0f} after"
            result.faults.append(f"{figure} at rest: {rest}")
    left = result.after["rss_mib"] - result.before["rss_mib"]
    if left > RSS_LEFT_MIB:
        result.faults.append(f"{left:.1f} MiB are left when all is closed, {RSS_LEFT_MIB:.0f} are allowed")


def _errors(stderr: bytes | bytearray) -> list[str]:
    lines = stderr.decode(errors="replace").splitlines()
    return [
        line for line in lines if '"level": "error"' in line or '"level": "critical"' in line or "Traceback" in line
    ]


def describe(result: Result) -> Mapping[str, object]:
    """What a person wants to see of it."""
    figures: dict[str, object] = dict(sorted(result.counts.items()))
    for name, found in result.trends.items():
        line = f"{found.rise:.2f} ± {found.error:.2f} (mean {found.mean:.1f}, explained {found.explained:.2f})"
        figures[f"{name} rise"] = line
    for name in ("rss_mib", "fds", "threads", "tasks"):
        figures[f"{name} at rest"] = f"{result.before[name]:.1f} -> {result.after[name]:.1f}"
    return figures
