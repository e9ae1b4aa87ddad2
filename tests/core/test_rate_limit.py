import pytest

from sync.core.rate_limit import RateLimit


def test_a_burst_passes_and_then_what_comes_steadily() -> None:
    limit = RateLimit(per_second=10, burst=20)

    assert limit.take(20, now=100.0)
    assert not limit.take(1, now=100.0)
    assert limit.take(10, now=101.0)
    assert not limit.take(1, now=101.05)
    assert limit.take(20, now=1_000.0)
    assert not limit.take(1, now=1_000.0), "it never holds more than a burst"


def test_who_counts_what_came_waits_until_it_would_have_been_in_time() -> None:
    limit = RateLimit(per_second=10, burst=20)

    assert limit.delay(20, now=100.0) == 0
    assert limit.delay(1, now=100.0) == 0.1
    assert limit.delay(1, now=100.1) == pytest.approx(0.1)
    assert limit.delay(5, now=101.2) == 0
