"""How soon something must be committed."""

from enum import IntEnum


class Urgency(IntEnum):
    """The doc-writer's cue; the highest of what waits counts."""

    NONE = 0
    LAZY = 1  # with whatever comes next, within one commit interval
    NORMAL = 2  # at once when idle, else one commit interval after the last commit
    URGENT = 3  # at once: somebody waits for it
