"""Text that deflate can't shorten."""

import base64
import random


def noise(size: int, seed: int = 0) -> str:
    """Text that takes about `size` bytes also when it is deflated; the same for the same seed."""
    return base64.b85encode(random.Random(seed).randbytes(size)).decode()
