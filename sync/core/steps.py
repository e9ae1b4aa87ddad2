"""Long work of pure code, cut where others may have their turn: a generator that yields nothing and returns the result."""

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]


def run_through(steps: Steps[T]) -> T:
    """The result, without a turn for anybody else; for what is known to be short."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
