from sync.core.rate_limit import RateLimit


def test_a_burst_passes_and_then_what_comes_steadily() -> None:
    limit = RateLimit(per_second=10, burst=20)

    assert limit.take(20, now=100.0)
    assert not limit.take(1, now=100.0)
    assert limit.take(10, now=101.0)
    assert not limit.take(1, now=101.05)
    assert limit.take(20, now=1_000.0)
    assert not limit.take(1, now=1_000.0), "it never holds more than a burst"
