"""What is fuzzed: how an input is made from a seed, what is done with it, and how long that may take."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from time import perf_counter, thread_time
from traceback import format_exception
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# What docs/promises.md says of any one input. CPU time: others use this machine, too.
MAX_INPUT_SECONDS = 1.0


@dataclass(frozen=True)
class Target(Generic[T]):
    """One door for bytes from outside.

    Args:
        name: what it is called on the command line.
        make: an input.
        feed: does with it what the daemon would, and says in a word what became of it. Whatever it raises is a finding.
    """

    name: str
    make: Callable[[Random], T]
    feed: Callable[[T], Awaitable[str]]

    def input(self, seed: int, index: int) -> T:
        """An input of a run, the same whatever came before it."""
        return self.make(Random(f"{self.name} {seed} {index}"))


@dataclass
class Report:
    """Figures of a run."""

    target: str
    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest_seconds: float = 0.0
    slowest_index: int = 0
    peak_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return vars(self)

    def __str__(self) -> str:
        outcomes = ", ".join(f"{name} {count}" for name, count in Counter(self.outcomes).most_common())
        return (
            f"{self.target:9} {self.inputs:8,} inputs in {self.seconds:6.1f} s, "
            f"slowest {self.slowest_seconds * 1000:6.1f} ms (#{self.slowest_index}), "
            f"at most {self.peak_bytes / 2**20:.0f} MiB: {outcomes}"
        )


class Finding(Exception):
    """An input that did harm; with what is needed to do it again."""


async def fuzz(target: Target[Any], seed: int, indexes: range, note: Callable[[int], None]) -> Report:
    """Feeds the inputs of a run, one by one.

    Args:
        target: what they go into.
        seed: of the run.
        indexes: which inputs of it.
        note: told of each input before it is fed, for whoever finds this process dead.

    Raises:
        Finding: something was raised, or took too long.
    """
    report = Report(target.name)
    started = perf_counter()
    for index in indexes:
        note(index)
        data = target.input(seed, index)
        again = f"python -m tests.fuzz {target.name} --seed {seed} --first {index} --inputs 1"
        before = thread_time()
        try:
            outcome = await target.feed(data)
        except BaseException as error:  # a panic of the core is no Exception; the run is over in any case
            raise Finding(  # noqa: ASYNC104  # a cancelled run is over as well
                f"{again}\n{_excerpt(data)}\n{''.join(format_exception(error))}"
            ) from error
        took = thread_time() - before
        if took > MAX_INPUT_SECONDS:
            raise Finding(f"{again}: {took:.2f} s of CPU\n{_excerpt(data)}")
        report.outcomes[outcome] += 1
        if took > report.slowest_seconds:
            report.slowest_seconds, report.slowest_index = took, index
    report.inputs = len(indexes)
    report.seconds = perf_counter() - started
    return report


def _excerpt(data: object) -> str:
    return repr(data)[:2000]
