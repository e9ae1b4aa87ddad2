"""Samples to figures, processes to CPU time, and what must be known of the machine to read either."""

import math
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PERCENTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)
_PACKAGES = ("notebookd", "automerge", "cbor2", "ipykernel", "jupyter_client", "pyzmq", "trio", "wsproto")


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def p50(samples: Sequence[float]) -> float:
    """The median."""
    return percentile(samples, 50)


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Count and percentiles, for the JSON file."""
    return {"n": len(samples), **{f"p{percent}": percentile(samples, percent) for percent in _PERCENTILES}}


@dataclass(frozen=True, slots=True)
class ProcessTime:
    """What the scheduler knows of a process: seconds on a core, and seconds that it was ready and had none."""

    running: float
    waiting: float

    @classmethod
    def of(cls, pid: int) -> "ProcessTime | None":
        """Now; None where /proc does not say (macOS). Threads that ended are left out."""
        running = waiting = 0
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                on_core, ready, _ = (task / "schedstat").read_text().split()
                running += int(on_core)
                waiting += int(ready)
        except FileNotFoundError:
            return None
        return cls(running / 1e9, waiting / 1e9)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process used between two moments; None where the system does not tell."""

    running: float | None
    waiting: float | None


class Watch:
    """Measures what a process uses from here on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._start = ProcessTime.of(pid)

    def spent(self) -> Spent:
        """What it used until now."""
        end = ProcessTime.of(self._pid)
        if self._start is None or end is None:
            return Spent(None, None)
        return Spent(end.running - self._start.running, end.waiting - self._start.waiting)


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    return {
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "versions": {package: version(package) for package in _PACKAGES},
    }
