"""A runtime document -> plain Python, or the mutations that make another one like it."""

from collections.abc import Iterator
from typing import Any, Literal

from sync.core.binding import ROOT, Found, Kind, ObjId, Reader
from sync.core.identifiers import Heads
from sync.core.limits import MAX_DOCUMENT_OPS
from sync.core.mutations import (
    KERNEL_LOG,
    AddCell,
    AddExecution,
    ClearOutputs,
    OpenComm,
    SetCell,
    SetEnvironment,
    SetExecution,
    SetFile,
    SetKernel,
    SetQueue,
    Target,
)
from sync.core.plain import read_found, read_plain
from sync.core.prepared import AppendManifest, EditSegments, PreparedMutation

# How many segments one mutation of a copy writes: about 3 ms.
SEGMENTS_AT_ONCE = 1000


def read_runtime(reader: Reader, heads: Heads | None = None) -> dict[str, Any]:
    """The whole document as plain Python; 2 us a value (0.1 s for 1 000 cells with 3 000 outputs and 600 comms)."""
    content: dict[str, Any] = read_plain(reader, ROOT, heads, max_values=MAX_DOCUMENT_OPS)
    return content


def read_cell(reader: Reader, cell_id: str, heads: Heads | None = None) -> dict[str, Any] | None:
    """`cells[cell_id]` with its outputs, None if there is no such cell."""
    return _read_entry(reader, "cells", cell_id, heads)


def read_comm(reader: Reader, comm_id: str, heads: Heads | None = None) -> dict[str, Any] | None:
    """`comms[comm_id]` with its state, None if there is no such comm."""
    return _read_entry(reader, "comms", comm_id, heads)


def find(reader: Reader, *path: str) -> Found | None:
    """What stands at a path of maps, for `read_found`; None if nothing does."""
    found: Found | None = (Kind.MAP, ROOT)
    for key in path:
        found = None if found is None or found[0] is not Kind.MAP else reader.get(found[1], key)
    return found


def read_kernel_log(reader: Reader, heads: Heads | None = None) -> list[dict[str, Any]]:
    """`kernel_log`: manifests of what belongs to no cell."""
    found = reader.get(ROOT, "kernel_log", heads)
    return [] if found is None else list(read_plain(reader, found[1], heads))


def entry_ids(reader: Reader, parent: Literal["cells", "comms", "executions"], heads: Heads | None = None) -> list[str]:
    """The ids of all cells, comms or executions, sorted."""
    found = reader.get(ROOT, parent, heads)
    return [] if found is None else reader.keys(found[1], heads)


def _read_entry(reader: Reader, parent: str, key: str, heads: Heads | None) -> dict[str, Any] | None:
    found = reader.get(ROOT, parent, heads)
    entry = None if found is None else reader.get(found[1], key, heads)
    return (
        None
        if entry is None or entry[0] is not Kind.MAP
        else read_plain(reader, entry[1], heads, max_values=MAX_DOCUMENT_OPS)
    )


def copy_runtime(reader: Reader, heads: Heads | None = None) -> Iterator[PreparedMutation]:
    """The mutations that give a document just created the content of this one.

    Little is read before it is asked for, so whoever copies stops when the time is up; with `heads` the document may go on
    changing meanwhile.
    """

    def read(obj: ObjId, key: str) -> Any:
        found = reader.get(obj, key, heads)
        return None if found is None else read_found(reader, found, heads)

    def child(obj: ObjId, key: str) -> ObjId:
        found = reader.get(obj, key, heads)
        return b"" if found is None else found[1]

    def outputs(obj: ObjId, target: Target) -> Iterator[PreparedMutation]:
        for _, manifest_obj in reader.items(obj, heads) or ():
            manifest = read_plain(reader, manifest_obj, heads)
            text = manifest.get("text", [])
            if len(text) > SEGMENTS_AT_ONCE:
                manifest["text"] = text[:SEGMENTS_AT_ONCE]
            yield AppendManifest(target, manifest)
            for first in range(SEGMENTS_AT_ONCE, len(text), SEGMENTS_AT_ONCE):
                part = tuple(text[first : first + SEGMENTS_AT_ONCE])
                yield EditSegments(target, manifest["output_id"], first, part)

    yield SetKernel(**read(ROOT, "kernel"))
    queue = read(ROOT, "queue")
    yield SetQueue(queue["executing"], tuple(queue["queued"]))
    parent = child(ROOT, "executions")
    for execution_id in reader.keys(parent, heads):
        entry = read(parent, execution_id)
        yield AddExecution(execution_id, entry.pop("cell_id"), entry.pop("order"))
        yield SetExecution(execution_id, **entry)
    parent = child(ROOT, "cells")
    for cell_id in reader.keys(parent, heads):
        obj = child(parent, cell_id)
        yield AddCell(cell_id, read(obj, "execution_count"))
        yield SetCell(cell_id, execution_id=read(obj, "execution_id"))
        yield from outputs(child(obj, "outputs"), Target("cell", cell_id))
    parent = child(ROOT, "comms")
    for comm_id in reader.keys(parent, heads):
        obj = child(parent, comm_id)
        fields = {key: read(obj, key) for key in ("target_name", "model_module", "model_name", "order", "state")}
        yield OpenComm(comm_id, **fields)
        captured = child(obj, "outputs")
        if captured:
            yield ClearOutputs(Target("comm", comm_id))  # an empty list is one, too
            yield from outputs(captured, Target("comm", comm_id))
    environment = read(ROOT, "environment")
    environment |= {key: tuple(environment[key]) for key in ("added", "removed")}
    yield SetEnvironment(**environment)
    file = read(ROOT, "file")
    yield SetFile(**file | {"saved_notebook_heads": tuple(file["saved_notebook_heads"])})
    yield from outputs(child(ROOT, "kernel_log"), KERNEL_LOG)
