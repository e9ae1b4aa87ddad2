"""`python -m benchmarks [ROW ...]`: measures all rows, or those named, and prints them beside their floors.

Nothing fails because it is slow: a missed goal is printed, and the exit code is 0.
"""

import argparse
import signal
import tempfile
import time
from importlib import import_module
from pathlib import Path

import trio
from rich.console import Console

from benchmarks.bench import running_bench
from benchmarks.measuring import machine
from benchmarks.registry import ROWS
from benchmarks.report import Row, show, write

for _module in ("rows", "widget_rows", "weather_rows"):
    import_module(f"benchmarks.{_module}")  # each enters its rows


async def _run(names: list[str], directory: Path, console: Console) -> list[Row]:
    rows: list[Row] = []
    measuring, watching = trio.CancelScope(), trio.CancelScope(shield=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_at_signal, measuring, watching)
        try:
            with measuring:
                async with running_bench(directory) as bench:
                    for name in names:
                        start = time.perf_counter()
                        rows += await ROWS[name](bench)
                        console.print(f"{name}: {time.perf_counter() - start:.0f} s", style="dim", highlight=False)
        finally:
            watching.cancel()
    return rows


async def _end_at_signal(measuring: trio.CancelScope, watching: trio.CancelScope) -> None:
    """Ctrl-C and `kill` end the run in order, with all that it started; also when they come twice, as from `timeout`."""
    with watching, trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            measuring.cancel()


def main() -> None:
    """Parses the command line and runs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks of notebookd.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of: {', '.join(ROWS)}; all without one")
    names = list(dict.fromkeys(parser.parse_args().rows)) or list(ROWS)
    if unknown := set(names) - ROWS.keys():
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    console = Console(width=None if Console().is_terminal else 140)
    before = machine()
    # Sockets' paths must be short.
    with tempfile.TemporaryDirectory(prefix="nb-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        rows = trio.run(_run, names, Path(directory).resolve(), console)
    after = machine()
    show(rows, console)
    loads = f"load {before['load'][0]} before, {after['load'][0]} after"
    console.print(f"{before['cores']} cores, {loads}, Python {before['python']}", style="dim", highlight=False)
    write(rows, {**before, "load_after": after["load"]})


main()
