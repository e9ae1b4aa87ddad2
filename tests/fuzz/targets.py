"""All targets by name."""

from typing import Any

from tests.fuzz.changes import CHANGES
from tests.fuzz.frames import FRAMES
from tests.fuzz.heads import HEADS
from tests.fuzz.kernel_messages import KERNEL_MESSAGES
from tests.fuzz.notebooks import NOTEBOOKS
from tests.fuzz.requests import REQUESTS
from tests.fuzz.sync_messages import SYNC_MESSAGES
from tests.fuzz.target import Target

TARGETS: dict[str, Target[Any]] = {
    target.name: target for target in (FRAMES, SYNC_MESSAGES, CHANGES, REQUESTS, KERNEL_MESSAGES, HEADS, NOTEBOOKS)
}
