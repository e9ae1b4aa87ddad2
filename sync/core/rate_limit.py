"""How much of something may come in a time."""


class RateLimit:
    """A bucket that fills steadily: `burst` at once, `per_second` in the long run."""

    def __init__(self, *, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._left = burst
        self._since = 0.0

    def take(self, amount: float, now: float) -> bool:
        """Whether so much may come now, in seconds of a clock that never goes back; what may is counted."""
        self._fill(now)
        if amount > self._left:
            return False
        self._left -= amount
        return True

    def delay(self, amount: float, now: float) -> float:
        """Counts what came, also where it should not have; the seconds to wait before more is taken."""
        self._fill(now)
        self._left -= amount
        return max(0.0, -self._left / self._per_second)

    def _fill(self, now: float) -> None:
        self._left = min(self._burst, self._left + (now - self._since) * self._per_second)
        self._since = now
