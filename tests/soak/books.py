"""The notebooks of a soak: some are closed and opened again, with peers in them, one stays open to the end."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import trio

from tests.e2e.notebooks import Notebook, write_notebook
from tests.fakes.daemon_process import DaemonProcess

# What the cells do; a cell's next source is one of these, so that what a notebook holds does not grow.
SOURCES = (
    "1 + 1",
    "for n in range(100): print('line', n)",
    "import time\nfor n in range(5):\n    print(n, flush=True)\n    time.sleep(0.2)",
    "1 / 0",
    "from IPython.display import HTML, display\nfor n in range(10): display(HTML(f'<b>{n}</b>'))",
    "print('x' * 5000)",
    # One slider for each kernel, or a kernel's own memory of its widgets would be what grows.
    "import ipywidgets\nif 'slider' not in globals(): slider = ipywidgets.IntSlider(max=1000)\ndisplay(slider)",
    "if 'slider' in globals():\n    for n in range(50): slider.value = n",
    "import sys\nfor n in range(20): sys.stdout.write(f'\\r{n}')",
    "from IPython.display import clear_output\nfor n in range(5):\n    clear_output(wait=True)\n    print(n)",
)
CELLS = 8


@dataclass(eq=False)
class Book:
    """One notebook file. `notebook` is what it is open as now; `closed` tells whether it is."""

    daemon: DaemonProcess
    name: str
    counts: Counter[str]
    notebook: Notebook | None = None
    opened: trio.Event = field(default_factory=trio.Event)
    visits: set[trio.CancelScope] = field(default_factory=set)

    def write(self) -> None:
        """Makes the file."""
        write_notebook(self.daemon.root / self.name, {f"cell-{n}": SOURCES[n % len(SOURCES)] for n in range(CELLS)})

    async def open(self) -> None:
        """Opens it in the daemon."""
        opened = await self.daemon.open(self.name)
        self.notebook = Notebook(self.daemon, opened["id"], opened["notebook"], opened["runtime"])
        self.counts["openings"] += 1
        self.opened.set()

    async def close(self, rng: Random) -> None:
        """Closes it under the hands of half of its peers."""
        assert self.notebook is not None
        self.opened = trio.Event()
        notebook, self.notebook = self.notebook, None
        for visit in list(self.visits):
            if rng.random() < 0.5:
                visit.cancel()
        await self.daemon.delete(f"/api/notebooks/{notebook.id}")
        for visit in list(self.visits):
            visit.cancel()

    async def live(self, rng: Random, seconds: float) -> None:
        """Closes and opens it again, about every so many seconds."""
        while True:
            await trio.sleep(seconds * rng.uniform(0.7, 1.3))
            await self.close(rng)
            await self.open()

    @contextlib.contextmanager
    def visit(self) -> Iterator[None]:
        """A peer is here until the notebook closes."""
        with trio.CancelScope() as scope:
            self.visits.add(scope)
            try:
                yield
            finally:
                self.visits.discard(scope)
