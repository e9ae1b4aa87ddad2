"""What several peers of one notebook recorded, and whether a daemon that keeps its promises can have said it.

Pure: histories in, violations out. P1: no event before its state. P2: what ran is the source that was named. P3: what
was accepted starts at most once, ends exactly once, and its status only goes forward. Then: all replicas are equal in
the end, what was acknowledged is in them, and a peer misses events only where its connection broke, or where a newer one
says all that the missed one did.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FINAL = frozenset({"done", "error", "interrupted", "cancelled"})
# Of these a peer that is behind hears the last only; nobody else may miss an event.
REPLACED = frozenset({"queue_changed", "env_progress"})
_RANK = {"queued": 0, "running": 1, **dict.fromkeys(FINAL, 2)}


@dataclass(frozen=True)
class Told:
    """An event as it reached a peer; `early`: a replica lacked what it speaks of."""

    method: str
    params: Mapping[str, Any]
    early: bool = False


@dataclass(frozen=True)
class Asked:
    """A request to execute: `source` is what the peer had at the heads that it named, `answer` what came of it."""

    execution_id: str
    cell_id: str
    source: str
    answer: str  # accepted, refused, or lost: no answer came

    @property
    def accepted(self) -> bool:
        return self.answer == "accepted"


@dataclass(frozen=True)
class Replica:
    """A peer's two documents at the end: heads, the cells' sources, the executions' statuses."""

    notebook_heads: tuple[str, ...]
    heads: tuple[str, ...]
    sources: Mapping[str, str]
    statuses: Mapping[str, str]


@dataclass
class History:
    """One peer.

    Attributes:
        connections: what it was told, one list for each connection, in order.
        asked: its requests to execute.
        acknowledged: texts that it inserted, each once, and that the daemon said it has: (cell id, text).
        end: its replica when all was quiet; None for one that had left by then.
        reconnects: whether one of `connections` may hold several, since the peer connects again by itself.
    """

    name: str
    connections: list[list[Told]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    acknowledged: list[tuple[str, str]] = field(default_factory=list)
    end: Replica | None = None
    reconnects: bool = False


@dataclass
class Ran:
    """What the kernel itself wrote down: (execution id, source) for each run of a cell, in order."""

    runs: list[tuple[str, str]] = field(default_factory=list)


def violations(
    histories: Sequence[History], ran: Ran, commits: Sequence[Mapping[str, str]] = (), *, witness: str
) -> list[str]:
    """Everything that must not be, in words; empty if all is well.

    Args:
        histories: of all peers.
        ran: the kernel's own record.
        commits: execution statuses after each commit of the runtime document, in order.
        witness: the name of a peer whose one connection never broke: it must have heard every event.
    """
    return [
        *_early(histories),
        *_events(histories, witness),
        *_sources(histories, ran),
        *_ends(histories, ran, witness),
        *_statuses(commits),
        *_convergence(histories),
        *_lost(histories),
    ]


def _early(histories: Iterable[History]) -> Iterator[str]:
    for history in histories:
        for told in (told for connection in history.connections for told in connection if told.early):
            yield f"P1: {history.name} heard {told.method} {told.params.get('seq')} before its state"


def _events(histories: Sequence[History], witness: str) -> Iterator[str]:
    """The same number is the same event for all, numbers grow, and gaps are where a connection broke."""
    known: dict[tuple[str, int], str] = {}
    methods = {
        (str(told.params.get("epoch")), int(told.params.get("seq", 0))): told.method
        for history in histories
        for connection in history.connections
        for told in connection
    }
    for history in histories:
        for connection in history.connections:
            last: dict[str, int] = {}
            for told in connection:
                epoch, seq = str(told.params.get("epoch")), int(told.params.get("seq", 0))
                said = json.dumps([told.method, _essence(told.params)], sort_keys=True)
                if known.setdefault((epoch, seq), said) != said:
                    yield f"{history.name} heard another event {seq} than others: {said}, not {known[epoch, seq]}"
                before = last.get(epoch)
                if before is not None and seq <= before:
                    yield f"{history.name} heard event {seq} after {before}"
                elif before is not None and not history.reconnects:
                    for missed in range(before + 1, seq):
                        # One that nobody heard was replaced for all; if it was an end, its execution has none.
                        if (method := methods.get((epoch, missed))) is not None and method not in REPLACED:
                            yield f"{history.name} missed event {missed} ({method}) on a connection that held"
                last[epoch] = seq
    [seen] = [history for history in histories if history.name == witness]
    if len(seen.connections) != 1 or seen.reconnects:
        yield f"{witness} is no witness: it had {len(seen.connections)} connections"
        return
    heard = {(told.params.get("epoch"), told.params.get("seq")) for told in seen.connections[0]}
    first = min((seq for _, seq in heard), default=0)
    for epoch, seq in sorted(known):
        if seq >= first and (epoch, seq) not in heard and methods[epoch, seq] not in REPLACED:
            yield f"{witness} never heard event {seq}, which others heard"


def _essence(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if key != "buffers"}


def _sources(histories: Iterable[History], ran: Ran) -> Iterator[str]:
    asked = {asked.execution_id: asked for history in histories for asked in history.asked}
    for execution_id, source in ran.runs:
        named = asked.get(execution_id)
        if named is None:
            yield f"P2: {execution_id} ran, and nobody had asked for it"
        elif named.source != source:
            yield f"P2: {execution_id} ran {source!r}, and {named.source!r} was named"
        elif named.answer == "refused":
            yield f"P3: {execution_id} was refused, and ran"


def _ends(histories: Sequence[History], ran: Ran, witness: str) -> Iterator[str]:
    for execution_id, count in Counter(execution_id for execution_id, _ in ran.runs).items():
        if count != 1:
            yield f"P3: {execution_id} ran {count} times"
    [seen] = [history for history in histories if history.name == witness]
    told = [told for connection in seen.connections for told in connection]
    started = _by_execution(told, "execution_started")
    done = _by_execution(told, "execution_done")
    for name, events in (("started", started), ("done", done)):
        for execution_id, found in events.items():
            if len(found) > 1:
                yield f"P3: {execution_id} is {name} {len(found)} times"
    for execution_id, [index, *_] in started.items():
        end = done.get(execution_id, [len(told)])[0]
        if end < index:
            yield f"P3: {execution_id} is done before it started"
    for execution_id, [index, *_] in done.items():
        status = told[index].params.get("status")
        if status not in FINAL:
            yield f"P3: {execution_id} is done as {status}"
        if (status == "cancelled") == (execution_id in started):
            yield f"P3: {execution_id} is {status}, and {'started' if execution_id in started else 'never started'}"
    accepted = {asked.execution_id for history in histories for asked in history.asked if asked.accepted}
    statuses = seen.end.statuses if seen.end is not None else {}
    for execution_id in sorted(accepted | done.keys() | {execution_id for execution_id, _ in ran.runs}):
        if execution_id not in done:
            yield f"P3: {execution_id} has no end"
        elif statuses.get(execution_id) != (status := told[done[execution_id][0]].params.get("status")):
            yield f"P3: {execution_id} is done as {status}, and {statuses.get(execution_id)} in the document"


def _by_execution(told: Sequence[Told], method: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, event in enumerate(told):
        if event.method == method:
            found.setdefault(str(event.params.get("execution_id")), []).append(index)
    return found


def _statuses(commits: Sequence[Mapping[str, str]]) -> Iterator[str]:
    last: dict[str, str] = {}
    for number, statuses in enumerate(commits):
        for execution_id, status in statuses.items():
            before = last.get(execution_id, "queued")
            if status not in _RANK or (status != before and _RANK[status] <= _RANK[before]):
                yield f"P3: {execution_id} goes from {before} to {status} in commit {number}"
            last[execution_id] = status if status in _RANK else before
        running = [execution_id for execution_id, status in statuses.items() if status == "running"]
        if len(running) > 1:
            yield f"P3: {', '.join(sorted(running))} run at once in commit {number}"


def _convergence(histories: Iterable[History]) -> Iterator[str]:
    ends = [(history.name, history.end) for history in histories if history.end is not None]
    for name, end in ends[1:]:
        first_name, first = ends[0]
        for what in ("notebook_heads", "heads", "sources", "statuses"):
            if getattr(end, what) != getattr(first, what):
                yield f"{name} and {first_name} end with different {what}"


def _lost(histories: Sequence[History]) -> Iterator[str]:
    ends = [history.end for history in histories if history.end is not None]
    for history in histories:
        for cell_id, text in history.acknowledged:
            for end in ends[:1]:  # they are equal, or that is said above
                count = end.sources.get(cell_id, "").count(text)
                if count != 1:
                    yield f"{history.name} was told that {text!r} is in {cell_id}, where it is {count} times"
