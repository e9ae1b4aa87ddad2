"""The values that a peer has set and whose requests are not answered: what it shows of these traits meanwhile.

What the document says of them until then may be older (docs/wire.md, "Comms").
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sync.core.prepared import Value


@dataclass(slots=True)
class _Own:
    value: Value
    requests: int = 0


class OwnValues:
    """By comm and trait: the last value that was set, and how many requests for it are under way."""

    def __init__(self) -> None:
        self._own: dict[str, dict[str, _Own]] = {}

    def hold(self, comm_id: str, state: Mapping[str, Value]) -> None:
        """A request that sets these is about to be made."""
        traits = self._own.setdefault(comm_id, {})
        for name, value in state.items():
            own = traits.setdefault(name, _Own(value))
            own.value = value
            own.requests += 1

    def release(self, comm_id: str, names: Iterable[str]) -> None:
        """A request that was held with these traits was answered, or never will be."""
        traits = self._own[comm_id]
        for name in names:
            own = traits[name]
            own.requests -= 1
            if not own.requests:
                del traits[name]
        if not traits:
            del self._own[comm_id]

    def of(self, comm_id: str) -> dict[str, Value]:
        """The values that are held of one comm, in the form that the document will have them in."""
        return {name: own.value for name, own in self._own.get(comm_id, {}).items()}
