"""How long the event loop is away from its sockets, and what held it.

An instrument of Trio: 1.2 us for each round of the loop and 0.6 us for each step of a task (measured; a step that does
something takes 20 and more). Nothing is logged or counted by a timer, so an idle daemon stays idle.
"""

import gc
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Final

import structlog
import trio

# Whoever types feels this; DESIGN's own bound for one operation is a fifth of it.
SLOW_SECONDS: Final = 0.1
# Upper bounds in seconds: an idle round, a commit, our bound for one operation, what is felt, what is a fault.
BUCKETS: Final = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0)

log = structlog.get_logger(__name__)


class LoopWatch(trio.abc.Instrument):
    """Counts rounds of the loop by their length, and logs a slow one with the task that took most of it.

    Attributes:
        rounds: by the index of their bucket; the last counts those beyond all.
        seconds: in all rounds together: the loop's own work.
        collections, collected_seconds: of the garbage collector, which stops everything.
    """

    def __init__(self) -> None:
        self.rounds = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.collections = 0
        self.collected_seconds = 0.0
        self._began = self._step_began = self._collection_began = perf_counter()
        self._collected_before = 0.0
        self._step: trio.lowlevel.Task | None = None
        self._longest: trio.lowlevel.Task | None = None
        self._longest_seconds = 0.0
        self._in_round = False

    @contextmanager
    def watching(self) -> Iterator["LoopWatch"]:
        """Watches the loop that runs."""
        gc.callbacks.append(self._collecting)
        trio.lowlevel.add_instrument(self)
        try:
            yield self
        finally:
            trio.lowlevel.remove_instrument(self)
            gc.callbacks.remove(self._collecting)

    def after_io_wait(self, timeout: float) -> None:
        """A round begins."""
        self._began = self._step_began = perf_counter()
        self._collected_before = self.collected_seconds
        self._step = self._longest = None
        self._longest_seconds = 0.0
        self._in_round = True

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """A task runs; the one before it did so up to now."""
        now = perf_counter()
        seconds = now - self._step_began
        if seconds > self._longest_seconds:
            self._longest, self._longest_seconds = self._step, seconds
        self._step, self._step_began = task, now

    def before_io_wait(self, timeout: float) -> None:
        """A round ends."""
        if not self._in_round:  # it began before we watched
            return
        self._in_round = False
        now = perf_counter()
        seconds = now - self._began
        self.rounds[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds
        if seconds > SLOW_SECONDS:
            if now - self._step_began > self._longest_seconds:
                self._longest, self._longest_seconds = self._step, now - self._step_began
            self._tell(seconds)
        self._step = self._longest = None  # a task that ended is not kept

    def _tell(self, seconds: float) -> None:
        task = self._longest
        # What the task bound, its room or its peer, rather than what this place has.
        bound = {} if task is None else task.context.run(structlog.contextvars.get_contextvars)
        log.warning(
            "slow loop iteration",
            **bound,
            ms=round(seconds * 1000),
            task="the loop" if task is None else task.name,
            task_ms=round(self._longest_seconds * 1000),
            gc_ms=round((self.collected_seconds - self._collected_before) * 1000),
        )

    def _collecting(self, phase: str, info: Mapping[str, Any]) -> None:
        if phase == "start":
            self._collection_began = perf_counter()
        else:
            self.collections += 1
            self.collected_seconds += perf_counter() - self._collection_began
