"""An end-to-end test that waits for ever fails with the place where it waited, after its clean-up."""

import pytest
import trio

from tests.conftest import limited


async def test_a_test_over_its_limit_is_cancelled_and_says_where_it_waited(autojump_clock: trio.abc.Clock) -> None:
    cleaned_up = False

    async def waits_for_ever(fixture: int) -> None:
        nonlocal cleaned_up
        try:
            await trio.sleep_forever()
        finally:
            cleaned_up = fixture == 1

    with pytest.raises(pytest.fail.Exception, match=r"await trio\.sleep_forever"):
        await limited(waits_for_ever, 60)(fixture=1)

    assert cleaned_up
    assert trio.current_time() >= 60


async def test_a_test_within_its_limit_keeps_its_own_outcome(autojump_clock: trio.abc.Clock) -> None:
    async def fails() -> None:
        await trio.sleep(59)
        raise LookupError("its own")

    with pytest.raises(LookupError, match="its own"):
        await limited(fails, 60)()
