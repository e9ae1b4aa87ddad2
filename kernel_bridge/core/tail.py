"""The last bytes of an endless text."""


class TailBuffer:
    """Keeps the last `size` bytes of what is written to it."""

    def __init__(self, size: int) -> None:
        self.written = 0
        self._size = size
        self._kept = bytearray()

    def write(self, data: bytes) -> None:
        """Appends `data`; what is then too much is dropped from the beginning."""
        self.written += len(data)
        self._kept += data
        # Trimmed at twice the size, so that small writes do not move the whole buffer each time.
        if len(self._kept) > 2 * self._size:
            del self._kept[: -self._size]

    def text(self) -> str:
        """What is kept, decoded with replacement of what is no UTF-8."""
        return bytes(self._kept[-self._size :]).decode("utf-8", "replace")
