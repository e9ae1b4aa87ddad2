"""What a soak looks at every ten seconds: the daemon's process from outside, and what it says at /metrics."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import trio

from tests.fakes.daemon_process import DaemonProcess

INTERVAL = 10.0
MIB = 2**20

FIGURES = (
    *("seconds", "rss_mib", "fds", "threads", "tasks", "peers", "rooms", "kernels", "changes", "operations"),
    *("commits", "executions", "connections", "bytes_sent", "loop_slow", "cores", "daemon_cores"),
)


def read_metrics(text: str) -> dict[str, float]:
    """The lines of the exposition format: by name and labels as they stand there."""
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


class Sampler:
    """Samples one daemon; `samples` are in order, and in the CSV file as they come."""

    def __init__(self, daemon: DaemonProcess, path: Path) -> None:
        self.samples: list[dict[str, float]] = []
        self._daemon = daemon
        self._process = psutil.Process(daemon.process.pid)
        self._path = path
        self._cpu: dict[int, float] = {}
        self._daemon_cpu = 0.0
        self._looked_at = trio.current_time() - INTERVAL
        with path.open("w", newline="") as file:
            csv.writer(file).writerow(FIGURES)

    async def sample(self, seconds: float, connections: int) -> dict[str, float]:
        """Takes one sample, `seconds` after the start."""
        # Before the request, whose own connection may still be open when it has been answered.
        fds = self._process.num_fds()
        metrics = read_metrics((await self._daemon.get("/metrics")).raise_for_status().text)
        used, daemon_used = self._cpu_since()
        before, self._looked_at = self._looked_at, trio.current_time()
        elapsed = self._looked_at - before
        sample = {
            "seconds": seconds,
            "rss_mib": self._process.memory_info().rss / MIB,
            "fds": fds,
            "threads": self._process.num_threads(),
            "tasks": metrics["notebookd_tasks"],
            "peers": metrics["notebookd_peers"],
            "rooms": metrics["notebookd_rooms"],
            "kernels": _sum(metrics, "notebookd_kernels{", without="not_started"),
            "changes": metrics["notebookd_changes"],
            "operations": _sum(metrics, "notebookd_document_operations{", without="replaced"),
            "commits": metrics["notebookd_commits_total"],
            "executions": _sum(metrics, "notebookd_executions_total{"),
            "connections": connections,
            "bytes_sent": metrics["notebookd_bytes_sent_total"],
            "loop_slow": metrics["notebookd_loop_seconds_count"] - metrics['notebookd_loop_seconds_bucket{le="0.1"}'],
            "cores": used / elapsed,
            "daemon_cores": daemon_used / elapsed,
        }
        self.samples.append(sample)
        with self._path.open("a", newline="") as file:
            csv.writer(file).writerow(f"{sample[name]:.6g}" for name in FIGURES)
        return sample

    def _cpu_since(self) -> tuple[float, float]:
        """CPU seconds since the last call: of all that the soak runs (children of ours and theirs), and of the daemon."""
        used = 0.0
        seen: dict[int, float] = {}
        ours = psutil.Process()
        for process in (ours, *ours.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.Error:  # it has just ended
                continue
            seen[process.pid] = times.user + times.system
            used += seen[process.pid] - self._cpu.get(process.pid, 0.0)
        self._cpu = seen
        daemon = seen.get(self._process.pid, 0.0)
        daemon_used, self._daemon_cpu = daemon - self._daemon_cpu, daemon
        return used, daemon_used


def _sum(metrics: Mapping[str, float], prefix: str, *, without: str = "\0") -> float:
    return sum(value for name, value in metrics.items() if name.startswith(prefix) and without not in name)


def plot(samples: Sequence[Mapping[str, float]], path: Path, title: str) -> None:
    """Draws the figures over time, one below the other."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = (
        ("MiB", ("rss_mib",)),
        ("operations", ("operations",)),
        ("changes", ("changes",)),
        ("", ("fds", "threads", "tasks")),
        ("", ("peers", "rooms", "kernels")),
        ("cores", ("cores", "daemon_cores")),
    )
    minutes = [sample["seconds"] / 60 for sample in samples]
    figure, axes = pyplot.subplots(len(rows), sharex=True, figsize=(11, 2.2 * len(rows)), layout="constrained")
    for axis, (unit, names) in zip(axes, rows, strict=True):
        for name in names:
            axis.plot(minutes, [sample[name] for sample in samples], label=name, linewidth=1)
        axis.axvspan(0, minutes[len(minutes) // 4], color="0.93")
        axis.set_ylabel(unit)
        axis.set_ylim(bottom=0)
        axis.legend(loc="lower right", fontsize=8, ncols=len(names))
        axis.grid(visible=True, alpha=0.3)
    axes[-1].set_xlabel("minutes (grey: not judged)")
    figure.suptitle(title)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
