import gc
import time

import structlog
import trio
import trio.testing
from structlog.testing import capture_logs

from daemon.loop_watch import BUCKETS, SLOW_SECONDS, LoopWatch


async def hold_the_loop(seconds: float) -> None:
    structlog.contextvars.bind_contextvars(room="a room")
    await trio.lowlevel.checkpoint()
    time.sleep(seconds)  # noqa: ASYNC251  # it is what is to be seen


async def test_a_slow_round_is_counted_and_logged_with_the_task_that_took_it() -> None:
    with capture_logs() as logs, LoopWatch().watching() as watch:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(trio.lowlevel.checkpoint)
            nursery.start_soon(hold_the_loop, 2 * SLOW_SECONDS)
        await trio.testing.wait_all_tasks_blocked()
    slow = [record for record in logs if record["event"] == "slow loop iteration"]
    assert len(slow) == 1
    assert slow[0]["task"].endswith("hold_the_loop")
    assert slow[0]["room"] == "a room"
    assert slow[0]["ms"] >= slow[0]["task_ms"] >= 1000 * SLOW_SECONDS
    assert slow[0]["gc_ms"] == 0
    assert sum(watch.rounds[BUCKETS.index(SLOW_SECONDS) + 1 :]) == 1
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
