import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import trio
import trio.testing
from structlog.testing import capture_logs

from daemon.loop_watch import BUCKETS, SLOW_SECONDS, LoopWatch


async def hold_the_loop(seconds: float) -> None:
    structlog.contextvars.bind_contextvars(room="a room")
    await trio.lowlevel.checkpoint()
    time.sleep(seconds)  # noqa: ASYNC251  # it is what is to be seen


@contextmanager
def no_collections() -> Iterator[None]:
    """None but those that the test makes."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def test_a_slow_round_is_counted_and_logged_with_the_task_that_took_it() -> None:
    with no_collections(), capture_logs() as logs, LoopWatch().watching() as watch:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(trio.lowlevel.checkpoint)
            nursery.start_soon(hold_the_loop, 2 * SLOW_SECONDS)
        await trio.testing.wait_all_tasks_blocked()
    slow = [record for record in logs if record["event"] == "slow loop iteration"]
    # A machine that is busy may hold up another round as well.
    [held] = [record for record in slow if record["task"].endswith("hold_the_loop")]
    assert held["room"] == "a room"
    assert held["ms"] >= held["task_ms"] >= 1000 * SLOW_SECONDS
    assert held["gc_ms"] == 0
    assert sum(watch.rounds[BUCKETS.index(SLOW_SECONDS) + 1 :]) == len(slow)
    assert sum(watch.rounds) > 1
    assert watch.seconds >= 2 * SLOW_SECONDS


async def test_the_collectors_part_is_told() -> None:
    with capture_logs() as logs, LoopWatch().watching() as watch:
        before = watch.collections
        await trio.lowlevel.checkpoint()
        gc.collect()
        time.sleep(2 * SLOW_SECONDS)  # noqa: ASYNC251
        await trio.testing.wait_all_tasks_blocked()
    assert watch.collections > before
    assert watch.collected_seconds > 0
    assert any(record["gc_ms"] > 0 for record in logs)


async def test_nothing_is_watched_any_more_afterwards() -> None:
    callbacks = list(gc.callbacks)
    with LoopWatch().watching() as watch:
        await trio.testing.wait_all_tasks_blocked()
    assert gc.callbacks == callbacks
    rounds = list(watch.rounds)
    await trio.testing.wait_all_tasks_blocked()
    assert watch.rounds == rounds
