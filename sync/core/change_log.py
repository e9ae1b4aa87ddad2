"""The changes of one document in the order in which this daemon took them: what every peer's position points into.

A prefix of the log is causally closed (a change is appended only after its dependencies), so "everything up to position n"
is a state of the document, and its heads are known without asking Automerge. A peer is a number, not a set of hashes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sync.core.identifiers import ChangeHash, Heads


@dataclass(frozen=True, slots=True)
class LoggedChange:
    """One change.

    Attributes:
        max_op: the counter of its last operation; whatever builds on it starts above.
        origin: the key of the connection that it came from, None for the daemon's own.
    """

    hash: ChangeHash
    deps: tuple[ChangeHash, ...]
    chunk: bytes
    max_op: int
    origin: object | None


class ChangeLog:
    """An append-only list of changes, with the heads at every position and the position of every hash."""

    def __init__(self) -> None:
        self._changes: list[LoggedChange] = []
        # Not of every position where there are many: see `_FEW_HEADS`.
        self._heads: list[Heads | None] = [()]
        self._open: set[ChangeHash] = set()
        self._index: dict[ChangeHash, int] = {}
        self._bytes: list[int] = [0]
        self._payloads: dict[tuple[int, int], bytes] = {}

    def __len__(self) -> int:
        return len(self._changes)

    def __contains__(self, change_hash: object) -> bool:
        return change_hash in self._index

    def __getitem__(self, index: int) -> LoggedChange:
        return self._changes[index]

    def clear(self) -> None:
        """Forgets all: the document is over. Positions into it have no meaning any more."""
        self.__init__()  # type: ignore[misc]  # what there is to forget is said there, once

    def append(self, change: LoggedChange) -> None:
        """Adds a change whose dependencies are all here.

        Raises:
            ValueError: a dependency is missing or the change is already here; both are bugs of the caller.
        """
        if change.hash in self._index:
            raise ValueError("change is already in the log")
        for dep in change.deps:
            if dep not in self._index:
                raise ValueError("a dependency of the change is not in the log")
        self._index[change.hash] = len(self._changes)
        self._changes.append(change)
        self._bytes.append(self._bytes[-1] + len(change.chunk))
        self._open.difference_update(change.deps)
        self._open.add(change.hash)
        kept = len(self._open) <= _FEW_HEADS or len(self._changes) % _HEADS_KEPT_EVERY == 0
        self._heads.append(tuple(sorted(self._open)) if kept else None)

    def heads(self, position: int | None = None) -> Heads:
        """The heads of the first `position` changes (of all, without one), sorted."""
        if position is None:
            position = len(self._changes)
        found = self._heads[position]
        if found is None:
            start = position - position % _HEADS_KEPT_EVERY
            heads = set(self._heads[start] or ())
            for change in self._changes[start:position]:
                heads.difference_update(change.deps)
                heads.add(change.hash)
            found = tuple(sorted(heads))
        return found

    def position_of(self, change_hash: ChangeHash) -> int | None:
        """How long the shortest prefix is that holds this change; None if it is unknown."""
        index = self._index.get(change_hash)
        return None if index is None else index + 1

    def max_op(self, deps: Iterable[ChangeHash]) -> int:
        """The highest operation counter in or behind `deps`, which are all in the log."""
        return max((self._changes[self._index[dep]].max_op for dep in deps), default=0)

    def size(self, start: int, end: int) -> int:
        """Bytes of the changes from `start` up to `end`."""
        return self._bytes[end] - self._bytes[start]

    def covered_by(self, hashes: Iterable[ChangeHash]) -> int:
        """A position: all before it is among `hashes` or behind them. Mostly the highest such one, at the cost of a look."""
        known = set(hashes)
        for position in sorted(filter(None, map(self.position_of, known)), reverse=True)[:_POSITIONS_LOOKED_AT]:
            if known.issuperset(self.heads(position)):
                return position
        return 0

    def ancestors(self, heads: Iterable[ChangeHash], start: int = 0, most: int | None = None) -> set[int]:
        """Indexes >= `start` of changes that are in `heads` or behind them; unknown hashes count as nothing.

        All of them, but for those beyond the first `most`. The cost is the number of indexes found, some 2 us each, so a
        caller who knows that a prefix is covered passes its end.
        """
        found: set[int] = set()
        stack = [index for index in map(self._index.get, heads) if index is not None and index >= start]
        while stack and (most is None or len(found) < most):
            index = stack.pop()
            if index in found:
                continue
            found.add(index)
            for dep in self._changes[index].deps:
                behind = self._index[dep]
                if behind >= start and behind not in found:
                    stack.append(behind)
        return found

    def end_within(self, start: int, end: int, max_bytes: int) -> int:
        """The largest position <= `end` such that the changes from `start` fit into `max_bytes`; at least one change."""
        limit = self._bytes[start] + max_bytes
        if self._bytes[end] <= limit:
            return end
        low, high = start + 1, end
        while low < high:
            middle = (low + high + 1) // 2
            if self._bytes[middle] <= limit:
                low = middle
            else:
                high = middle - 1
        return low

    def payload(
        self, start: int, end: int, *, without: object | None = None, skip: frozenset[int] = frozenset()
    ) -> bytes:
        """The chunks from `start` up to `end`, but those that came from `without` or are in `skip`.

        What many peers are sent at the same position is joined once.
        """
        part = self._changes[start:end]
        if skip or (without is not None and any(change.origin is without for change in part)):
            return b"".join(
                change.chunk
                for index, change in enumerate(part, start)
                if index not in skip and (without is None or change.origin is not without)
            )
        if len(part) == 1:
            return part[0].chunk
        key = (start, end)
        joined = self._payloads.get(key)
        if joined is None:
            joined = b"".join(change.chunk for change in part)
            if len(self._payloads) >= _CACHED_PAYLOADS:
                self._payloads.clear()
            self._payloads[key] = joined
        return joined


def missing_dependencies(log: ChangeLog, changes: Sequence[LoggedChange]) -> set[ChangeHash]:
    """Hashes that `changes`, taken in order, build on and that neither the log nor an earlier one of them holds."""
    seen: set[ChangeHash] = set()
    missing: set[ChangeHash] = set()
    for change in changes:
        missing.update(dep for dep in change.deps if dep not in log and dep not in seen)
        seen.add(change.hash)
    return missing


def builds_on(log: ChangeLog, further: Sequence[LoggedChange], deps: Sequence[ChangeHash], wanted: ChangeHash) -> bool:
    """Whether a change is among `deps` or behind them, in the log or in `further` changes.

    The cost is what lies between, unless a look tells. It is not looked for behind more than `MAX_WALKED` changes, which lie
    between only where somebody keeps branches apart.
    """
    if wanted in deps:
        return True
    by_hash = {change.hash: change.deps for change in further}
    inside: list[ChangeHash] = list(deps)
    logged: list[ChangeHash] = []
    seen: set[ChangeHash] = set()
    while inside:
        change_hash = inside.pop()
        if change_hash == wanted:
            return True
        if change_hash not in seen:
            seen.add(change_hash)
            behind = by_hash.get(change_hash)
            if behind is None:
                logged.append(change_hash)
            else:
                inside.extend(behind)
    position = log.position_of(wanted)
    if position is None:
        return False
    return position <= log.covered_by(logged) or position - 1 in log.ancestors(logged, position - 1, MAX_WALKED)


# Changes that are walked through to find out what is behind some heads: 40 ms.
MAX_WALKED = 20_000
# So many heads are kept for each position; where there are more, for one in so many positions. A thousand heads, by somebody
# who keeps them apart, would take 8 KB for each change.
_FEW_HEADS = 8
_HEADS_KEPT_EVERY = 64
# The newest of many hashes tell, or none does.
_POSITIONS_LOOKED_AT = 16
# Peers that keep up differ by a few positions at any moment; older joins are never asked for again.
_CACHED_PAYLOADS = 32
