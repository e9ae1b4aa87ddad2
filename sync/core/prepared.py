"""Mutations whose values are ready for the document: what `runtime_schema.py` applies.

`values.prepare` makes these from the mutations of `mutations.py`. They hold only what Automerge takes as it is: `str`
without lone surrogates, `int` within 2**53, `float`, `bool`, `None`, and maps and lists of these. Whatever was big or
binary is a reference to a blob, and that blob must be stored before the commit that names it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sync.core.mutations import (
    AddCell,
    AddExecution,
    ClearOutputs,
    CloseComm,
    OpenComm,
    RemoveCell,
    RemoveExecution,
    SetCell,
    SetCommState,
    SetEnvironment,
    SetExecution,
    SetFile,
    SetKernel,
    SetQueue,
    Target,
    TrimOutputs,
)

# A value of docs/wire.md: text, a number, a truth value or null as it is; a map is a reference to a blob
# (`blob`, `size`, `media_type`) or a composite (`json`), either with `buffers`.
Value: TypeAlias = str | int | float | bool | None | dict[str, Any]

# A map of docs/wire.md that describes one output; every leaf is a `Value` or a plain `str` or `int`.
Manifest: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AppendManifest:
    """One more manifest at the end of the target's list. The schema writes the map as it is, key by key."""

    target: Target
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class ReplaceManifest:
    """The manifest with this one's `output_id` is now this one, at the same index."""

    target: Target
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class EditSegments:
    """`text` of a stream's manifest from index `first` on; see `EditStream` for what `first` may be.

    `metadata` is the whole new value of the manifest's `metadata`, or None to leave it as it is.
    """

    target: Target
    output_id: str
    first: int
    segments: tuple[Value, ...]
    metadata: Value = None


# In OpenComm and SetCommState `state` maps a trait to its `Value`; None is a value there.
PreparedMutation: TypeAlias = (
    SetKernel
    | SetQueue
    | AddExecution
    | SetExecution
    | RemoveExecution
    | AddCell
    | SetCell
    | RemoveCell
    | ClearOutputs
    | AppendManifest
    | EditSegments
    | ReplaceManifest
    | TrimOutputs
    | OpenComm
    | SetCommState
    | CloseComm
    | SetFile
    | SetEnvironment
)

# So many new cells or executions take some 8 ms to write.
NEW_ENTRIES_AT_ONCE = 400


def in_commits(mutations: Sequence[PreparedMutation]) -> Iterator[Sequence[PreparedMutation]]:
    """Cuts what is to be committed behind each `NEW_ENTRIES_AT_ONCE` new cells and executions, and nowhere else."""
    start = entries = 0
    for end, mutation in enumerate(mutations, 1):
        entries += isinstance(mutation, AddCell | AddExecution)
        if entries == NEW_ENTRIES_AT_ONCE:
            yield mutations[start:end]
            start, entries = end, 0
    if start < len(mutations):
        yield mutations[start:]
