"""What a document's operations made, by their ids: so that a change is taken only if all that it refers to is there.

And how much they make: a text of any length can be made by many small changes, and some changes that are small on the wire take
the core, or what follows from them here, seconds.

Neither library checks that. An operation on an object that does not exist, or of another kind; behind an element of another
list; over a value that stands under another key: the Python library takes most of these, and the JavaScript library panics,
which ends every document of that page, or saves a document that it can never load again (measured). So a change of a few
bytes would end all other peers of a notebook.

A text costs an entry for each run of characters that was inserted at once, a map one for each value ever written to it.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from sync.core.change_log import ChangeLog
from sync.core.change_rows import DELETE, INCREMENT, MAKE_LIST, MAKE_MAP, MAKE_TEXT, count_operations
from sync.core.changes import ChangeBody, open_change
from sync.core.identifiers import ActorId
from sync.core.limits import (
    MAX_DOCUMENT_OPS,
    MAX_DOCUMENT_VALUES,
    MAX_GROUP_PLACES,
    MAX_GROUP_VALUES,
    MAX_REWRITING,
    MAX_SOURCE_BYTES,
)
from sync.core.operation_runs import Ids, OperationRun, operation_runs
from sync.core.steps import Steps

# An operation: its author's number here, and its counter below that. One number, since there are very many.
Id: TypeAlias = int

_COUNTER_BITS = 32  # the core counts operations in as many
_ROOT: Id = -1


class Unfounded(Exception):
    """A change refers to what is not there; the text is a clause for people."""


class TooMuch(Exception):
    """A change makes more than a peer may; the text is a clause for people."""


class References:
    """Follows a log of changes, and says of further ones whether they fit.

    Args:
        log: the document's.
        read_text: a text of the document, by the author and the counter of the operation that made it.
    """

    def __init__(self, log: ChangeLog, read_text: Callable[[ActorId, int], str]) -> None:
        self._log = log
        self._read_text = read_text
        self._position = 0
        self._numbers: dict[ActorId, int] = {}
        self._made = _Made()
        # UTF-8 bytes that texts have at most: what was inserted since they were last read. Reading one takes up to 35 ms.
        self._text_bytes: Counter[Id] = Counter()
        # How often each key of each map was written, and how many keys and items peers made.
        self._writes: Counter[int] = Counter()
        self._values = 0

    def catching_up(self) -> Steps[None]:
        """Takes what the log holds by now: about 5 us for each run of operations."""
        while self._position < len(self._log):
            opened = open_change(self._log[self._position].chunk)
            names = self._names(opened)
            counted = _Counted(self._text_bytes, self._writes)
            for run in _runs(opened):
                self._made.add(run, names)
                self._made.count(run, names, counted)
            self._position += 1
            yield

    def checking(self, chunks: Sequence[bytes]) -> Steps["Additions"]:
        """Whether all that changes refer to is there or made by one of them; the log may not move meanwhile.

        Args:
            chunks: changes that passed their own check, dependencies first.

        Raises:
            Unfounded: it is not.
            TooMuch: they are more than a peer may make of a document.
        """
        yield from self.catching_up()
        additions = Additions(len(chunks), len(self._numbers), _Made(self._made), _Counted(Counter(), Counter()), set())
        made, counted = additions.made, additions.counted
        places = 0
        try:
            for chunk in chunks:
                opened = open_change(chunk)
                names = self._names(opened)
                for run in _simple_runs(opened):
                    places += 1
                    if places > MAX_GROUP_PLACES:
                        raise TooMuch(f"more than {MAX_GROUP_PLACES} places are changed at once")
                    made.check(run, names)
                    made.count(run, names, counted)
                    self._check_values(counted)
                    if run.key is not None:
                        made.note_keys(run, names, additions.keys)
                    if not places % _RUNS_AT_ONCE:
                        yield
            self._check_counted(counted)
        except BaseException:
            self._forget(additions)
            raise
        return additions

    @contextmanager
    def adding(self, additions: "Additions") -> Iterator[None]:
        """The block appends to the log what was checked; if it raises, there was nothing."""
        try:
            yield
        except BaseException:
            self._forget(additions)
            raise
        self._made.update(additions.made)
        self._text_bytes.update(additions.counted.text_bytes)
        self._writes.update(additions.counted.writes)
        self._values += additions.counted.values
        self._position += additions.changes

    def _forget(self, additions: "Additions") -> None:
        # Whoever is refused can come again, with other names.
        while len(self._numbers) > additions.known_actors:
            self._numbers.popitem()

    def _check_values(self, counted: "_Counted") -> None:
        """As soon as there are too many: looking at them takes time as well."""
        if counted.most * counted.most // 2 > MAX_REWRITING:
            raise TooMuch(_TOO_OFTEN)
        if counted.values > MAX_GROUP_VALUES or self._values + counted.values > MAX_DOCUMENT_VALUES:
            raise TooMuch(f"more than {MAX_GROUP_VALUES} keys and items at once, or {MAX_DOCUMENT_VALUES} in all")

    def _check_counted(self, counted: "_Counted") -> None:
        if sum(times * (self._writes[place] + times // 2) for place, times in counted.writes.items()) > MAX_REWRITING:
            raise TooMuch(_TOO_OFTEN)
        for text, size in counted.text_bytes.items():
            if self._text_bytes[text] + size > MAX_SOURCE_BYTES and self._text_bytes[text]:
                actor = list(self._numbers)[text >> _COUNTER_BITS]
                content = self._read_text(actor, text & ((1 << _COUNTER_BITS) - 1))
                self._text_bytes[text] = len(content.encode(errors="replace"))
            if self._text_bytes[text] + size > MAX_SOURCE_BYTES:
                raise TooMuch(f"a text would exceed {MAX_SOURCE_BYTES} bytes")

    def _names(self, opened: ChangeBody) -> "_Names":
        return _Names(opened.actors, [self._numbers.setdefault(a, len(self._numbers)) for a in opened.actors])


class _Names(NamedTuple):
    """The actors that a change names, its own first, and their numbers here."""

    actors: Sequence[ActorId]
    numbers: Sequence[int]

    def id(self, actor: int, counter: int) -> Id:
        return self.numbers[actor] << _COUNTER_BITS | counter


def _runs(opened: ChangeBody) -> Iterable[OperationRun]:
    rows = count_operations(opened.body, opened.columns, MAX_DOCUMENT_OPS)
    return operation_runs(opened.body, opened.columns, opened.start_op, rows)


@dataclass(slots=True)
class _Counted:
    """What operations write: bytes into each text, times at each place (and the most at one), and new keys and items."""

    text_bytes: Counter[Id]
    writes: Counter[int]
    values: int = 0
    most: int = 0

    def write(self, place: int, times: int) -> None:
        self.writes[place] += times
        self.most = max(self.most, self.writes[place])


@dataclass(frozen=True, slots=True)
class Additions:
    """What changes would add that were checked.

    Attributes:
        changes: how many these are.
        keys: of maps, in UTF-8: those that they write, and those under which the maps stand that they write to. A key says
            what may be another thing now, whichever map it is of.
    """

    changes: int
    known_actors: int
    made: "_Made"
    counted: _Counted
    keys: set[bytes]


@dataclass(slots=True)
class _Elements:
    """The elements that one actor inserted, in runs of ascending ids: the first and the last of each, and their object."""

    starts: list[Id] = field(default_factory=list)
    ends: list[Id] = field(default_factory=list)
    objects: list[Id] = field(default_factory=list)

    def add(self, start: Id, end: Id, obj: Id) -> None:
        if self.ends and self.ends[-1] + 1 == start and self.objects[-1] == obj:
            self.ends[-1] = end
        else:
            self.starts.append(start)
            self.ends.append(end)
            self.objects.append(obj)

    def object_of(self, element: Id) -> tuple[Id, Id] | None:
        """The object that an element is in, and the last of the run that both belong to."""
        at = bisect_right(self.starts, element) - 1
        return (self.objects[at], self.ends[at]) if at >= 0 and element <= self.ends[at] else None


class _Made:
    """Objects, elements and values; what is not here may be in `behind`."""

    def __init__(self, behind: "_Made | None" = None) -> None:
        self._behind = behind
        # The action that made an object: its kind.
        self._kinds: dict[Id, int] = {_ROOT: MAKE_MAP}
        # The keys under which maps were made: a cell's id.
        self._keys: dict[Id, bytes] = {}
        self._elements: dict[int, _Elements] = {}
        # Where an operation put a value that was there before it, or could have been: see `_place`.
        self._places: dict[Id, int] = {}

    def add(self, run: OperationRun, names: _Names) -> None:
        """Notes what operations make."""
        start = names.id(0, run.counter)
        obj = _object(run, names)
        if run.action in _MAKES:
            for made in range(start, start + run.rows):
                self._kinds[made] = run.action
                if run.key is not None and run.action == MAKE_MAP:
                    self._keys[made] = run.key
        if run.inserts:
            own = self._elements.get(names.numbers[0])
            if own is None:
                own = self._elements[names.numbers[0]] = _Elements()
            own.add(start, start + run.rows - 1, obj)
        elif run.action not in _MAKES_NOTHING:
            for row in range(run.rows):
                self._places[start + row] = _place(obj, _target(run, row, names))

    def update(self, other: "_Made") -> None:
        """Takes over what another one, made later, holds."""
        self._kinds.update(other._kinds)
        self._keys.update(other._keys)
        self._places.update(other._places)
        for actor, theirs in other._elements.items():
            own = self._elements.setdefault(actor, _Elements())
            for start, end, obj in zip(theirs.starts, theirs.ends, theirs.objects, strict=True):
                own.add(start, end, obj)

    def check(self, run: OperationRun, names: _Names) -> None:
        """Checks what operations of a simple run refer to, and notes what they make.

        Raises:
            Unfounded: it is not there.
        """
        obj = _object(run, names)
        kind = self._kind(obj)
        if kind is None:
            raise Unfounded("an operation on an object that is not there")
        if (kind == MAKE_MAP) != (run.key is not None):
            raise Unfounded("an operation on an object of another kind")
        if run.key is None:
            self._check_elements(run, names, obj)
        # Deleting a text: what goes is what was inserted, and that it is there is known by now.
        if run.preds != (run.elements,):
            self._check_preds(run, names, obj)
        self.add(run, names)

    def _check_elements(self, run: OperationRun, names: _Names, obj: Id) -> None:
        if run.elements is None:
            if not run.inserts:
                raise Unfounded("an operation on the head of a list")
            return
        actor, first, step = run.elements
        last = first + step * (run.rows - 1)
        if run.inserts and actor == 0 and step == 1 and first < run.counter:
            # Each row stands behind the one before it, or further back.
            last = min(last, run.counter - 1)
        if not self._has_elements(names.id(actor, min(first, last)), names.id(actor, max(first, last)), obj):
            raise Unfounded("an operation on an element that is not there")

    def _check_preds(self, run: OperationRun, names: _Names, obj: Id) -> None:
        place = _place(obj, _target(run, 0, names))
        previous = (-1, b"")
        for pred in run.preds:
            order = (pred.first, names.actors[pred.actor])
            if order <= previous:
                raise Unfounded("predecessors are not in order")
            previous = order
            if self._place_of(names.id(pred.actor, pred.first)) != place:
                raise Unfounded("an operation on a value that is not there")

    def count(self, run: OperationRun, names: _Names, counted: "_Counted") -> None:
        """Adds what operations write."""
        obj = _object(run, names)
        if run.key is not None:
            counted.write(_place(obj, run.key), run.rows)
        elif not run.inserts and run.action not in _MAKES_NOTHING:
            # Nobody overwrites items by the thousands, so each may be looked at.
            for row in range(run.rows):
                counted.write(_place(obj, _target(run, row, names)), 1)
        if run.key is None and self._kind(obj) == MAKE_TEXT:
            if run.size:
                counted.text_bytes[obj] += run.size
            return
        if not run.preds:
            counted.values += run.rows

    def note_keys(self, run: OperationRun, names: _Names, keys: set[bytes]) -> None:
        """Adds the key that operations write, and the one under which their map stands."""
        if run.key is not None:
            keys.add(run.key)
        obj = _object(run, names)
        stands_at = self._keys.get(obj)
        if stands_at is None and self._behind is not None:
            stands_at = self._behind._keys.get(obj)
        if stands_at is not None:
            keys.add(stands_at)

    def _kind(self, obj: Id) -> int | None:
        found = self._kinds.get(obj)
        return found if found is not None or self._behind is None else self._behind._kind(obj)

    def _has_elements(self, first: Id, last: Id, obj: Id) -> bool:
        while first <= last:
            found = self._object_of(first)
            if found is None or found[0] != obj:
                return False
            first = found[1] + 1
        return True

    def _object_of(self, element: Id) -> tuple[Id, Id] | None:
        elements = self._elements.get(element >> _COUNTER_BITS)
        found = None if elements is None else elements.object_of(element)
        return found if found is not None or self._behind is None else self._behind._object_of(element)

    def _place_of(self, operation: Id) -> int | None:
        found = self._places.get(operation)
        if found is not None:
            return found
        inserted = self._object_of(operation) if self._behind is not None else None
        if inserted is not None:
            return _place(inserted[0], operation)
        return None if self._behind is None else self._behind._place_of(operation)


def _simple_runs(opened: ChangeBody) -> Iterator[OperationRun]:
    """Runs of which one look is enough for all rows."""
    for run in _runs(opened):
        together = (run.elements is None or abs(run.elements.step) <= 1) and run.preds in ((), (run.elements,))
        if run.rows == 1 or together:
            yield run
        else:
            yield from (_row(run, row) for row in range(run.rows))


def _object(run: OperationRun, names: _Names) -> Id:
    return _ROOT if run.obj is None else names.id(run.obj.actor, run.obj.first)


def _target(run: OperationRun, row: int, names: _Names) -> bytes | Id:
    """The key that a row acts on, or the element; both None only at the head of a list, where nothing can be put."""
    if run.key is not None:
        return run.key
    return names.id(run.elements.actor, run.elements.first + run.elements.step * row) if run.elements else _ROOT


def _place(obj: Id, target: bytes | Id) -> int:
    # Half the memory of the pair; and a hash that nobody outside can foresee, since it begins with one of bytes.
    return hash((b"place", obj, target))


def _row(run: OperationRun, row: int) -> OperationRun:
    def at(ids: Ids) -> Ids:
        return Ids(ids.actor, ids.first + ids.step * row, ids.step)

    return run._replace(
        rows=1,
        counter=run.counter + row,
        elements=None if run.elements is None else at(run.elements),
        preds=tuple(map(at, run.preds)),
    )


# Each takes some 20 us.
_RUNS_AT_ONCE = 100
_TOO_OFTEN = "one key or item is written too often"
_MAKES = frozenset((MAKE_MAP, MAKE_LIST, MAKE_TEXT))
# A delete leaves nothing behind, and an increment is part of its counter: neither can be overwritten.
_MAKES_NOTHING = frozenset((DELETE, INCREMENT))
