"""What of the comms the document does not have yet: bounded, and coalesced as it comes.

Between two commits only the last value of a trait counts, and nothing of a comm that is closed again. So a progress bar
of ten thousand refreshes a second costs what is to be seen when the doc-writer looks.
"""

import marshal
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, TypeAlias

from sync.core.limits import MIB
from sync.core.mutations import CloseComm, OpenComm, SetCommState
from sync.core.widget_tree import REFERENCE_PREFIX

CommMutation: TypeAlias = OpenComm | SetCommState | CloseComm

# Undrained in all. One message has at most 256 MiB, and what a kernel sends while the disk does not keep up is held here.
MAX_WAITING_BYTES: Final = 256 * MIB


# Shorter values are not counted one by one: what is counted costs a dictionary entry.
_SMALL: Final = 128
_PREFIX_BYTES: Final = REFERENCE_PREFIX.encode()


def measure(value: object) -> tuple[int, bool]:
    """What a trait's value is, fast for big ones too.

    Returns:
        About its bytes, in memory and on the wire, 0 for a short one; whether it may refer to other comms.
    """
    if isinstance(value, str):
        size, refers = len(value), value.startswith(REFERENCE_PREFIX)
    elif isinstance(value, bytes):
        size, refers = len(value), False
    elif isinstance(value, dict | list | tuple):
        # Version 2 has no references. Walking a list of a million numbers would hold the loop for 0.1 s.
        data = marshal.dumps(value, 2)
        size, refers = len(data), _PREFIX_BYTES in data
    else:
        return 0, False
    return (size if size > _SMALL else 0), refers


def value_size(value: object) -> int:
    """The first that `measure` says."""
    return measure(value)[0]


class CommChanges:
    """The mutations of `comms` that wait. Adding is a matter of microseconds, whatever waits already.

    Attributes:
        edits: grows with each one.

    Args:
        limit: bytes of big values that may wait.
    """

    def __init__(self, limit: int = MAX_WAITING_BYTES) -> None:
        self.edits = 0
        self._limit = limit
        self._opened: dict[str, OpenComm] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._closed: dict[str, None] = {}
        self._sizes: dict[str, dict[str, int]] = {}
        self._waiting = 0

    @property
    def pending(self) -> bool:
        """Whether `drain` has something."""
        return bool(self._opened or self._states or self._closed)

    def open(self, comm: OpenComm, sizes: Mapping[str, int] | None = None) -> list[str]:
        """A new comm; returns the traits that there was no room for."""
        self._opened[comm.comm_id] = replace(comm, state={})
        return self.set(comm.comm_id, comm.state, sizes)

    def set(self, comm_id: str, state: Mapping[str, Any], sizes: Mapping[str, int] | None = None) -> list[str]:
        """New values of traits; returns those that there was no room for.

        Args:
            comm_id: an open comm.
            state: the values.
            sizes: what `value_size` says of them, by trait; those that are not in it are small.
        """
        self.edits += 1
        left_out: list[str] = []
        values = self._states.setdefault(comm_id, {})
        waiting = self._sizes.setdefault(comm_id, {})
        for name, value in state.items():
            size = sizes.get(name, 0) if sizes else 0
            more = size - waiting.get(name, 0)
            if more > 0 and self._waiting + more > self._limit:
                left_out.append(name)
                continue
            if more:
                waiting[name] = size
                self._waiting += more
            values[name] = value
        if not values and comm_id not in self._opened:
            self._drop(comm_id)
        return left_out

    def close(self, comm_id: str) -> None:
        """The comm is gone: if the document never had it, it never will."""
        self.edits += 1
        self._drop(comm_id)
        if self._opened.pop(comm_id, None) is None:
            self._closed[comm_id] = None

    def drain(self) -> list[CommMutation]:
        """What the document is to be told: closed comms, new ones in the order of their opening, changed ones."""
        mutations: list[CommMutation] = [CloseComm(comm_id) for comm_id in self._closed]
        mutations += [replace(comm, state=self._states.pop(comm.comm_id, {})) for comm in self._opened.values()]
        mutations += [SetCommState(comm_id, state) for comm_id, state in self._states.items()]
        for waiting in (self._opened, self._states, self._closed, self._sizes):
            waiting.clear()
        self._waiting = 0
        return mutations

    def _drop(self, comm_id: str) -> None:
        self._states.pop(comm_id, None)
        self._waiting -= sum(self._sizes.pop(comm_id, {}).values())
