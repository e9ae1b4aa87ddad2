"""What all tests share: the marks of end-to-end tests, and the time limit of each."""

import functools
import inspect
import signal
import traceback
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, settings

E2E = Path(__file__).parent / "e2e"
TIME_LIMIT = 60.0  # seconds; the longest usual step, the start of a kernel on a loaded machine, takes about ten

# The same examples on each run, so that a change fails for what it changed; `make soak` looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

# A shell's background job (`make test &`) ignores Ctrl-C, and so would every program that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what lies in tests/e2e, so that `pytest -m "not e2e"` is the quick run."""
    for item in items:
        if E2E in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before pytest-trio, which turns the coroutine into a plain function
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Gives an asynchronous end-to-end test its time limit; the faulthandler's is for those that block the loop."""
    test = getattr(item, "obj", None)
    if item.get_closest_marker("e2e") is not None and inspect.iscoroutinefunction(test):
        marker = item.get_closest_marker("time_limit")
        item.obj = limited(test, marker.args[0] if marker is not None else TIME_LIMIT)  # type: ignore[attr-defined] # of pytest.Function
    return (yield)


def limited(test: Callable[..., Awaitable[None]], seconds: float) -> Callable[..., Awaitable[None]]:
    """The same test, cancelled after `seconds`, which runs its clean-up; it then fails and says what it waited for."""

    @functools.wraps(test)
    async def run(**fixtures: Any) -> None:
        waited_for = ""
        with trio.move_on_after(seconds) as scope:
            try:
                await test(**fixtures)
            except BaseException:
                waited_for = traceback.format_exc()
                raise
        if scope.cancelled_caught:
            pytest.fail(f"not done after {seconds} s; it waited here:\n{waited_for}")

    return run
