"""The daemon, watched from inside: for passes of their own, so that watching does not disturb the timings.

    python -m benchmarks.instrumented_daemon pauses|roll-overs|timeline REPORT_FD serve ...

`roll-overs` are pauses, too, of a daemon that replaces a runtime document when a fiftieth of it is history.

At SIGUSR1 it writes what it saw since the last one to REPORT_FD, as one JSON line, and begins anew.
"""

import functools
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

import daemon.rolling_over
import daemon.supervisor
from daemon.kernel_life import _Life
from kernel_bridge import Kernel

# What a report names of the longest steps.
_WORST = 8


class Clock:
    """Seconds in which this thread could have been seen at work: without those when it was ready and had no core.

    Where the system does not tell (macOS), plain time.
    """

    def __init__(self) -> None:
        path = Path("/proc/thread-self/schedstat")
        self._fd = os.open(path, os.O_RDONLY) if path.exists() else None

    def now(self) -> float:
        """From an arbitrary start."""
        now = time.perf_counter()
        if self._fd is None:
            return now
        return now - int(os.pread(self._fd, 100, 0).split()[1]) / 1e9


class Pauses(trio.abc.Instrument):
    """How long the loop was held: by each step of a task, and from one look at the sockets to the next."""

    def __init__(self) -> None:
        self._clock = Clock()
        self._now = self._clock.now
        # It is installed in the middle of a step.
        self._start = self._round_start = self._collecting_since = self._now()
        gc.callbacks.append(self._collected)
        self._reset()

    def _reset(self) -> None:
        self._collected_seconds = self._longest_round = 0.0
        self._steps = 0
        self._worst: list[tuple[float, float, str]] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Trio calls it."""
        self._collected_seconds = 0.0
        self._start = self._now()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Trio calls it."""
        seconds = self._now() - self._start
        self._steps += 1
        if len(self._worst) < _WORST or seconds > self._worst[-1][0]:
            self._worst.append((seconds, self._collected_seconds, task.name))
            self._worst.sort(reverse=True)
            del self._worst[_WORST:]

    def before_io_wait(self, timeout: float) -> None:
        """Trio calls it."""
        self._longest_round = max(self._longest_round, self._now() - self._round_start)

    def after_io_wait(self, timeout: float) -> None:
        """Trio calls it."""
        self._round_start = self._now()

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting_since = self._now()
        else:
            self._collected_seconds += self._now() - self._collecting_since

    def report(self) -> dict[str, Any]:
        """Steps, the longest of them with the garbage collection in it (seconds), the longest round."""
        said = {
            "steps": self._steps,
            "longest_round": self._longest_round,
            "worst": [
                {"seconds": seconds, "collecting": collecting, "task": name}
                for seconds, collecting, name in self._worst
            ],
        }
        self._reset()
        return said


class Timeline:
    """When requests went to kernels, and when the last that a kernel said of them came (perf_counter, seconds)."""

    def __init__(self) -> None:
        self._sent: dict[str, float] = {}
        self._last: dict[str, float] = {}
        send, receive = Kernel.send, _Life.receive

        @functools.wraps(send)
        def timed_send(kernel: Kernel, channel: Any, msg_type: str, *rest: Any, **named: Any) -> Any:
            result = send(kernel, channel, msg_type, *rest, **named)
            if msg_type == "execute_request":
                self._sent[named["msg_id"]] = time.perf_counter()
            return result

        @functools.wraps(receive)
        def timed_receive(life: _Life, messages: Any) -> None:
            moment = time.perf_counter()
            for message in messages:
                self._last[message.parent.msg_id] = moment
            receive(life, messages)

        setattr(Kernel, "send", timed_send)  # noqa: B010  # a method is replaced on purpose
        setattr(_Life, "receive", timed_receive)  # noqa: B010

    def report(self) -> dict[str, Any]:
        """{execution_id: [sent, last]}."""
        said = {key: [sent, self._last[key]] for key, sent in self._sent.items() if key in self._last}
        self._sent.clear()
        self._last.clear()
        return said


def main() -> None:
    """Changes argv to what the daemon takes, and runs it."""
    what, report_fd = sys.argv[1], int(sys.argv[2])
    del sys.argv[1:3]
    run_daemon: Callable[..., Any] = daemon.supervisor.run_daemon
    if what == "timeline":
        watcher: Pauses | Timeline = Timeline()
    else:
        watcher = pauses = Pauses()
        if what == "roll-overs":
            setattr(daemon.rolling_over, "GROWTH", 1.02)  # noqa: B010  # a constant is replaced on purpose
            setattr(daemon.rolling_over, "MIN_OPERATIONS", 0)  # noqa: B010

        async def run_watched(*arguments: Any) -> None:
            trio.lowlevel.add_instrument(pauses)
            await run_daemon(*arguments)

        setattr(daemon.supervisor, "run_daemon", run_watched)  # noqa: B010  # likewise
    signal.signal(signal.SIGUSR1, lambda *_: os.write(report_fd, json.dumps(watcher.report()).encode() + b"\n"))
    # Imported last: it takes `run_daemon` from where it was just replaced.
    from daemon.cli import main as run

    run()


if __name__ == "__main__":
    main()
