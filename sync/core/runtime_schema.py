"""Mutations -> Automerge operations on a runtime document.

The shape is in docs/wire.md ("Runtime document"); this, `manifest_list.py` and `runtime_reading.py` are the only code that
knows its keys. It has one writer, who keeps the ids of its objects and small counters, and reads only what it replaces.

Writing a map's key costs time in proportion to how often that very key was written before (measured: 2 us at first, 10 at
1 000, 200 at 20 000 writes). So whatever changes often lives in a map that is replaced, with all that is in it, after some
writes. Readers see one change and never a gap, since they go by path.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from sync.core.binding import ROOT, ObjId, Transaction
from sync.core.manifest_list import ManifestList
from sync.core.mutations import (
    UNSET,
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
from sync.core.plain import (
    INT,
    LIST,
    MAP,
    STR,
    append_values,
    is_key,
    put_map,
    put_value,
    read_found,
)
from sync.core.prepared import AppendManifest, EditSegments, PreparedMutation, ReplaceManifest

SCHEMA_VERSION = 1

# Writes into one map before it is replaced: the last of them is slower by a third, and replacing one adds a tenth.
ROTATE_AFTER = 200


@dataclass(slots=True)
class _Register:
    """A map whose keys are overwritten: how many writes it took, and how many it may take."""

    obj: ObjId
    limit: int
    writes: int = 0


@dataclass(slots=True)
class _Cell:
    entry: _Register
    outputs: ManifestList


@dataclass(slots=True)
class _Comm:
    entry: _Register
    state: _Register
    outputs: ManifestList | None = None


class RuntimeSchema:
    """Writes one runtime document, from its first change on.

    It follows what it writes: after a transaction that was rolled back it is as useless as its document.
    """

    def __init__(self, rotate_after: int = ROTATE_AFTER) -> None:
        self._rotate_after = rotate_after
        self._parents: dict[str, ObjId] = {}
        self._registers: dict[str, _Register] = {}
        self._queue = SetQueue(None, ())
        self._queued: ObjId = b""
        self._queued_deletes = 0
        self._executions: dict[str, ObjId] = {}
        self._cells: dict[str, _Cell] = {}
        self._comms: dict[str, _Comm] = {}
        self._kernel_log = ManifestList(b"", rotate_after)

    def create(
        self, tx: Transaction, *, notebook_url: str, path: str, kernel_name: str = "", language: str = ""
    ) -> None:
        """Writes the roots into an empty document: no kernel runs, the file is being loaded."""
        tx.put(ROOT, "schema", INT, SCHEMA_VERSION)
        tx.put(ROOT, "notebook", STR, notebook_url)
        for key in ("executions", "cells", "comms"):
            self._parents[key] = tx.put_object(ROOT, key, MAP)
        self._put_register(tx, "kernel", {"status": "not_started", "name": kernel_name, "language": language})
        self._put_register(tx, "file", {"path": path, "status": "loading", "saved_notebook_heads": []})
        self._put_register(tx, "environment", {"in_sync": True, "added": [], "removed": []})
        self._put_queue(tx)
        self._kernel_log = ManifestList(tx.put_object(ROOT, "kernel_log", LIST), self._rotate_after)

    def apply(self, tx: Transaction, mutations: Sequence[PreparedMutation]) -> int:
        """Writes mutations, in order, within one transaction.

        Returns:
            How many were left out because they name what is not there: a kernel goes on printing for a cell that
            somebody deletes.

        Raises:
            ValueError: an EditSegments that leaves a gap, a bug of the caller.
        """
        return sum(not self._apply(tx, mutation) for mutation in mutations)

    def _apply(self, tx: Transaction, mutation: PreparedMutation) -> bool:
        match mutation:
            case AppendManifest():
                outputs = self._outputs(tx, mutation.target)
                if outputs is not None:
                    outputs.append(tx, mutation.manifest)
                return outputs is not None
            case EditSegments(target, output_id, first, segments, metadata):
                outputs = self._outputs(tx, target)
                return outputs is not None and outputs.edit_segments(tx, output_id, first, segments, metadata)
            case SetCommState():
                return self._set_comm_state(tx, mutation)
            case SetExecution():
                obj = self._executions.get(mutation.execution_id)
                if obj is not None:
                    put_map(tx, obj, _given(mutation, ("status", "execution_count", "started_at", "ended_at")))
                return obj is not None
            case SetKernel():
                self._set(tx, "kernel", _given(mutation, ("status", "name", "language", "error", "input_request")))
            case SetQueue():
                self._set_queue(tx, mutation)
            case AddExecution():
                return self._add_execution(tx, mutation)
            case SetCell():
                return self._set_cell(tx, mutation)
            case ClearOutputs():
                return self._clear(tx, mutation.target, 0)
            case ReplaceManifest():
                outputs = self._outputs(tx, mutation.target)
                return outputs is not None and outputs.replace(tx, mutation.manifest)
            case OpenComm():
                return self._open_comm(tx, mutation)
            case CloseComm(comm_id):
                return self._remove(tx, "comms", self._comms, comm_id)
            case AddCell():
                return self._add_cell(tx, mutation)
            case RemoveCell(cell_id):
                return self._remove(tx, "cells", self._cells, cell_id)
            case RemoveExecution(execution_id):
                return self._remove(tx, "executions", self._executions, execution_id)
            case TrimOutputs(target, keep):
                outputs = self._outputs(tx, target)
                return outputs is not None and (outputs.trim(tx, keep) or self._clear(tx, target, keep))
            case SetFile():
                names = ("path", "status", "error", "saved_notebook_heads", "saved_at")
                self._set(tx, "file", _given(mutation, names))
            case SetEnvironment(in_sync, added, removed, progress):
                values = {"in_sync": in_sync, "added": added, "removed": removed, "progress": progress}
                self._set(tx, "environment", values)
            case _:
                assert_never(mutation)
        return True

    # --- Root maps

    def _put_register(self, tx: Transaction, key: str, values: Mapping[str, Any]) -> None:
        register = self._registers[key] = _Register(tx.put_object(ROOT, key, MAP), self._rotate_after)
        put_map(tx, register.obj, values)

    def _set(self, tx: Transaction, key: str, values: Mapping[str, Any]) -> None:
        """Writes fields of a root map; None removes one."""
        register = self._registers[key]
        if register.writes >= register.limit:
            self._rotate(tx, ROOT, key, register)
        register.writes += len(values)
        for name, value in values.items():
            if value is None:
                tx.delete(register.obj, name)
            else:
                put_value(tx, register.obj, name, value)

    def _rotate(self, tx: Transaction, parent: ObjId, key: str, register: _Register) -> None:
        """Replaces a map by a new one with the same content, but for what has a life of its own."""
        values = {
            name: read_found(tx, found)
            for name in tx.keys(register.obj)
            if name not in _PARTS and (found := tx.get(register.obj, name)) is not None
        }
        register.obj = tx.put_object(parent, key, MAP)
        register.writes = 0
        register.limit = self._limit(values)
        put_map(tx, register.obj, values)

    def _limit(self, values: Mapping[str, Any]) -> int:
        # A map of a thousand traits is not written anew after each 200 writes.
        return max(self._rotate_after, 4 * len(values))

    def _put_queue(self, tx: Transaction) -> None:
        self._put_register(tx, "queue", {"executing": self._queue.executing})
        self._put_queued(tx)

    def _put_queued(self, tx: Transaction) -> None:
        self._queued = tx.put_object(self._registers["queue"].obj, "queued", LIST)
        self._queued_deletes = 0
        append_values(tx, self._queued, self._queue.queued, 0)

    def _set_queue(self, tx: Transaction, queue: SetQueue) -> None:
        old, self._queue = self._queue, queue
        register = self._registers["queue"]
        if register.writes >= register.limit:
            self._put_queue(tx)
            return
        if queue.executing != old.executing:
            put_value(tx, register.obj, "executing", queue.executing)
            register.writes += 1
        deleted, appended = list_difference(old.queued, queue.queued)
        self._queued_deletes += len(deleted)
        # Each item that was ever there makes later inserts slower; a long queue is worth more of that than a copy.
        if self._queued_deletes > max(self._rotate_after, len(queue.queued) // 4):
            self._put_queued(tx)
            register.writes += 1
            return
        for index in reversed(deleted):
            tx.delete(self._queued, index)
        append_values(tx, self._queued, appended, len(queue.queued) - len(appended))

    # --- Executions, cells, comms

    def _add_execution(self, tx: Transaction, added: AddExecution) -> bool:
        if added.execution_id in self._executions or not is_key(added.execution_id):
            return False
        obj = self._executions[added.execution_id] = tx.put_object(self._parents["executions"], added.execution_id, MAP)
        values = {"cell_id": added.cell_id, "status": "queued", "execution_count": None, "order": added.order}
        put_map(tx, obj, values)
        return True

    def _remove(self, tx: Transaction, parent: str, entries: dict[str, Any], key: str) -> bool:
        if entries.pop(key, None) is None:
            return False
        tx.delete(self._parents[parent], key)
        return True

    def _add_cell(self, tx: Transaction, added: AddCell) -> bool:
        if added.cell_id in self._cells:
            return True
        if not is_key(added.cell_id):
            return False
        entry = self._new_map(tx, "cells", added.cell_id)
        put_map(tx, entry.obj, {"execution_id": None, "execution_count": added.execution_count})
        self._cells[added.cell_id] = _Cell(entry, self._new_list(tx, entry))
        return True

    def _set_cell(self, tx: Transaction, changed: SetCell) -> bool:
        cell = self._cells.get(changed.cell_id)
        if cell is None:
            return False
        if not cell.outputs.count:  # with outputs it would have to copy them; a cell that runs again is emptied first
            self._renew_cell(tx, changed.cell_id, cell)
        values = _given(changed, ("execution_id", "execution_count"))
        cell.entry.writes += len(values)
        put_map(tx, cell.entry.obj, values)
        return True

    def _renew_cell(self, tx: Transaction, cell_id: str, cell: _Cell) -> None:
        if cell.entry.writes >= cell.entry.limit:
            self._rotate(tx, self._parents["cells"], cell_id, cell.entry)
            cell.outputs = self._new_list(tx, cell.entry)

    def _open_comm(self, tx: Transaction, opened: OpenComm) -> bool:
        comm_id = opened.comm_id
        if comm_id in self._comms or not is_key(comm_id):
            return False
        entry = self._new_map(tx, "comms", comm_id)
        put_map(tx, entry.obj, _given(opened, ("target_name", "model_module", "model_name", "order")))
        state = _Register(tx.put_object(entry.obj, "state", MAP), self._limit(opened.state))
        put_map(tx, state.obj, opened.state)
        has_outputs = opened.model_name == _OUTPUT_MODEL
        self._comms[comm_id] = _Comm(entry, state, self._new_list(tx, entry) if has_outputs else None)
        return True

    def _set_comm_state(self, tx: Transaction, changed: SetCommState) -> bool:
        comm = self._comms.get(changed.comm_id)
        if comm is None:
            return False
        if comm.state.writes >= comm.state.limit:
            self._rotate(tx, comm.entry.obj, "state", comm.state)
        comm.state.writes += len(changed.state)
        put_map(tx, comm.state.obj, changed.state)
        return True

    def _renew_comm(self, tx: Transaction, comm_id: str, comm: _Comm) -> None:
        if comm.entry.writes >= comm.entry.limit:
            self._rotate(tx, self._parents["comms"], comm_id, comm.entry)
            self._rotate(tx, comm.entry.obj, "state", comm.state)

    def _new_map(self, tx: Transaction, parent: str, key: str) -> _Register:
        return _Register(tx.put_object(self._parents[parent], key, MAP), self._rotate_after)

    # --- Lists of outputs

    def _new_list(self, tx: Transaction, entry: _Register) -> ManifestList:
        entry.writes += 1
        return ManifestList(tx.put_object(entry.obj, "outputs", LIST), self._rotate_after)

    def _outputs(self, tx: Transaction, target: Target) -> ManifestList | None:
        if target.kind == "cell":
            cell = self._cells.get(target.id)
            return None if cell is None else cell.outputs
        if target.kind == "comm":
            comm = self._comms.get(target.id)
            if comm is not None and comm.outputs is None:
                comm.outputs = self._new_list(tx, comm.entry)
            return None if comm is None else comm.outputs
        return self._kernel_log

    def _clear(self, tx: Transaction, target: Target, keep: int) -> bool:
        """Puts a new list in the place of the target's, with the last `keep` outputs."""
        outputs = self._outputs(tx, target)
        if outputs is None:
            return False
        kept = outputs.last(tx, keep)
        if target.kind == "cell":
            cell = self._cells[target.id]
            self._renew_cell(tx, target.id, cell)
            cell.outputs = outputs = self._new_list(tx, cell.entry)
        elif target.kind == "comm":
            comm = self._comms[target.id]
            self._renew_comm(tx, target.id, comm)
            comm.outputs = outputs = self._new_list(tx, comm.entry)
        else:
            self._kernel_log = outputs = ManifestList(tx.put_object(ROOT, "kernel_log", LIST), self._rotate_after)
        for manifest in kept:
            outputs.append(tx, manifest)
        return True


# ipywidgets' Output: its outputs are never in its state. Other models get a list when something is captured.
_OUTPUT_MODEL = "OutputModel"

# What stands in an entry's map but is kept, and replaced, on its own.
_PARTS = frozenset({"outputs", "state"})


def list_difference(old: tuple[str, ...], new: tuple[str, ...]) -> tuple[list[int], tuple[str, ...]]:
    """How to make `new` of `old`: the indexes to delete, ascending, and what to append then.

    Few edits where items leave anywhere and come at the end, as in a queue; right in any case.
    """
    size = len(old)
    if new[:size] == old:
        return [], new[size:]
    if new[: size - 1] == old[1:]:
        return [0], new[size - 1 :]
    deleted = []
    kept = 0
    for index, item in enumerate(old):
        if kept < len(new) and new[kept] == item:
            kept += 1
        else:
            deleted.append(index)
    return deleted, new[kept:]


def _given(mutation: PreparedMutation, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(mutation, name)) is not UNSET}
