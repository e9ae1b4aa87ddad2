"""Where displays with an id are shown, and the newest data for each, which waits until the document is told.

An update is for every place that shows the display then, so a newer one takes an older one's place; places that come after it
are not for it. Nothing here looks at the places before `take`: a display that is shown thousands of times and updated as often
would else hold up everybody (9 000 places and 3 000 updates took minutes).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from daemon.core.output_list import OutputList, WholeEntry

Place: TypeAlias = tuple[OutputList, WholeEntry]


@dataclass(frozen=True, slots=True)
class NewData:
    """What update_display_data said; `size` in bytes, about."""

    display_id: str
    data: Mapping[str, Any]
    metadata: Mapping[str, Any]
    size: int


@dataclass(slots=True)
class _Shown:
    places: dict[str, Place] = field(default_factory=dict)  # by output id
    newer: dict[str, Place] = field(default_factory=dict)  # those that the update is not for
    update: NewData | None = None


class Displays:
    """All displays with an id of one notebook. An output has at most one id, so this is bounded by the lists.

    Attributes:
        waiting: bytes of updates that wait.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._shown: dict[str, _Shown] = {}
        self._updated: dict[str, None] = {}

    @property
    def has_updates(self) -> bool:
        """Whether `take` gives something."""
        return bool(self._updated)

    def show(self, display_id: str, outputs: OutputList, entry: WholeEntry) -> None:
        """One more place."""
        shown = self._shown.setdefault(display_id, _Shown())
        places = shown.places if shown.update is None else shown.newer
        places[entry.output_id] = outputs, entry

    def update(self, update: NewData) -> int:
        """New data for all places; returns how many there are."""
        shown = self._shown.get(update.display_id)
        if shown is None:
            return 0
        shown.places |= shown.newer
        shown.newer = {}
        self.waiting += update.size - (0 if shown.update is None else shown.update.size)
        shown.update = update
        self._updated[update.display_id] = None
        return len(shown.places)

    def gone(self, display_id: str, output_id: str) -> None:
        """A place is no longer shown."""
        shown = self._shown[display_id]
        if shown.places.pop(output_id, None) is None:
            del shown.newer[output_id]
        if not shown.places and shown.update is not None:
            self._take(display_id, shown)
        if not shown.places:
            del self._shown[display_id]

    def take(self) -> Iterator[tuple[NewData, Place]]:
        """The updates that wait, for each of their places; none waits after it."""
        for display_id in list(self._updated):
            shown = self._shown[display_id]
            places = list(shown.places.values())
            update = self._take(display_id, shown)
            for place in places:
                yield update, place

    def _take(self, display_id: str, shown: _Shown) -> NewData:
        update = shown.update
        assert update is not None  # as `_updated` says
        self.waiting -= update.size
        del self._updated[display_id]
        shown.update = None
        shown.places |= shown.newer
        shown.newer = {}
        return update
