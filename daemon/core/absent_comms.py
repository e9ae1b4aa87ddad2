"""Comms that are open in the kernel and not in the document: those that nobody can see, and those whose state is asked for.

The kernel keeps more comms than anybody sees. ipywidgets closes a box alone, not its children, nor any widget's Layout and
Style: each progress bar of tqdm leaves ten behind. Where there is no room for more, what is not used goes; when it is used
again, the kernel is asked how it is.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, Final

from daemon.core.comm import Comm, Place
from sync.core.widget_tree import closure

# From one look for what is not used to the next: it takes the loop 10 ms, and a kernel may open 10 000 comms a second.
SWEEP_SECONDS: Final = 1.0
# Put away at once, the oldest first: to take them out of the document is another 20 ms.
MAX_SWEPT: Final = 4_000
# Ids that are remembered, of comms that were closed, or put away, or in trouble. A message that comes after a close is at
# most as old as the kernel's queue is long, and who uses a widget that was not seen for so long finds it missing.
MAX_REMEMBERED: Final = 100_000


class AbsentComms:
    """Which they are. An id in it is one that was put away, and that nobody has used since.

    Args:
        clock: the time in seconds.
        is_shown: whether an output shows the widget with this comm id.
    """

    def __init__(self, clock: Callable[[], float], is_shown: Callable[[str], bool]) -> None:
        self._clock = clock
        self._is_shown = is_shown
        self._away: dict[str, Place] = {}
        self._expected: dict[str, Place | None] = {}  # asked for, and where they belong if they were put away
        self._next_sweep = float("-inf")

    def __contains__(self, comm_id: str) -> bool:
        return comm_id in self._away

    def put_away(self, comms: Mapping[str, Comm]) -> list[str]:
        """Takes over those of the open comms that are not used; none if it looked just now."""
        now = self._clock()
        if now < self._next_sweep:
            return []
        self._next_sweep = now + SWEEP_SECONDS
        unused = unused_comms(comms, self._is_shown)[:MAX_SWEPT]
        self._away.update((comm_id, comms[comm_id].place) for comm_id in unused)
        keep_newest(self._away)
        return unused

    def use(self, comm_id: str) -> bool:
        """Something shows this comm, or refers to it; True if it was put away, and is to be asked for."""
        place = self._away.pop(comm_id, None)
        if place is None:
            return False
        self._expected[comm_id] = place
        return True

    def expect(self, comm_id: str, limit: int) -> bool:
        """The kernel says that it has this comm, which is not known; False if so many are asked for already."""
        if len(self._expected) < limit:
            self._expected.setdefault(comm_id, None)
        return comm_id in self._expected

    def expects(self, comm_id: str) -> bool:
        """Whether it was asked for, and has not come."""
        return comm_id in self._expected

    def arrive(self, comm_id: str) -> Place | None:
        """It is open in the document from now on; where it belongs, if it was there before."""
        return self._expected.pop(comm_id, None)

    def close(self, comm_id: str) -> bool:
        """The kernel closed it; True if it was once in the document."""
        return (self._expected.pop(comm_id, None) or self._away.pop(comm_id, None)) is not None

    def keep(self, comm_ids: Iterable[str]) -> None:
        """The kernel has these, and no others."""
        self._away = {comm_id: self._away[comm_id] for comm_id in comm_ids if comm_id in self._away}

    def clear(self) -> None:
        """The kernel is gone."""
        self._away.clear()
        self._expected.clear()


def unused_comms(comms: Mapping[str, Comm], is_shown: Callable[[str], bool]) -> list[str]:
    """Those that were used and are not any more, oldest first; some 10 ms for 10 000.

    Args:
        comms: all that are open, in the order of their opening.
        is_shown: whether an output shows the comm with this id.
    """

    def is_root(comm: Comm) -> bool:
        # An Output widget has what the kernel may not have yet, and no kernel can be asked for what is no widget.
        return not comm.was_used or not comm.is_widget or comm.is_output or comm.in_hand or is_shown(comm.comm_id)

    def references(comm_id: str) -> Iterable[str]:
        comm = comms.get(comm_id)
        # A link acts on widgets, it does not show them.
        return () if comm is None or comm.is_link else chain.from_iterable(comm.references.values())

    used = closure((comm_id for comm_id, comm in comms.items() if is_root(comm)), references)
    return [comm_id for comm_id in comms if comm_id not in used]


def keep_newest(comm_ids: dict[str, Any]) -> None:
    """Forgets the oldest, beyond `MAX_REMEMBERED`."""
    while len(comm_ids) > MAX_REMEMBERED:
        del comm_ids[next(iter(comm_ids))]
