"""Requests about cells: execute them, cancel that, clear what they showed."""

from uuid import UUID

import msgspec

from daemon.core.executions import Execution
from daemon.requests.methods import Call, Later, Methods, Result
from daemon.room import Room, new_id
from daemon.slices import in_slices
from sync.core.identifiers import Heads
from sync.core.jsonrpc import RequestError
from sync.core.limits import MAX_QUEUED_EXECUTIONS, MAX_SOURCE_BYTES
from sync.core.notebook_schema import Cell, NotebookSchema, may_fail

METHODS = Methods()


class ExecuteCell(msgspec.Struct):
    cell_id: str
    notebook_heads: list[str] | None = None
    execution_id: str | None = None


class RunAllCells(msgspec.Struct):
    notebook_heads: list[str] | None = None
    stop_on_error: bool = True


class CancelExecution(msgspec.Struct):
    execution_id: str


class ClearOutputs(msgspec.Struct):
    cell_ids: list[str] | None = None


@METHODS.method(ordered=True)
async def execute_cell(call: Call, params: ExecuteCell) -> Result | Later:
    room, execution_id = call.room, _execution_id(params.execution_id)
    known = room.runtime.queue.find(execution_id)
    if known is not None:
        return _repeated(known, params.cell_id)
    heads = await call.heads(params.notebook_heads)
    cell = _cell(room, params.cell_id, heads)
    if cell is None and not room.file.loaded.is_set():
        await room.file.loaded.wait()
        cell = _cell(room, params.cell_id, heads)
    known = room.runtime.queue.find(execution_id)
    if known is not None:
        return _repeated(known, params.cell_id)
    if cell is None:
        raise RequestError.not_found("cell")
    if cell.cell_type != "code":
        raise RequestError.not_a_code_cell()
    _submit(room, [(execution_id, cell)], run_id=None, stop_on_error=False)
    return Result({"execution_id": execution_id}, cells=True)


@METHODS.method(ordered=True)
async def run_all_cells(call: Call, params: RunAllCells) -> Result | Later:
    room = call.room
    await room.file.loaded.wait()
    heads = await call.heads(params.notebook_heads)
    at = room.notebook.heads() if heads is None else heads
    cells = NotebookSchema.in_order(await in_slices(NotebookSchema.iterate_cells(room.notebook.replica, at)))
    chosen = [(new_id(), cell) for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    _submit(room, chosen, run_id=new_id(), stop_on_error=params.stop_on_error)
    executions = [{"cell_id": cell.cell_id, "execution_id": execution_id} for execution_id, cell in chosen]
    return Result({"executions": executions}, cells=True)


@METHODS.method(ordered=True)
async def cancel_execution(call: Call, params: CancelExecution) -> Result | Later:
    room = call.room
    execution = room.runtime.queue.find(params.execution_id)
    if execution is None:
        raise RequestError.not_found("execution")
    if room.runtime.cancel(params.execution_id) or execution.status != "queued":
        return Result({"status": execution.status})

    async def finish() -> Result:
        # The kernel has it already, and begins any moment.
        await room.begun()
        room.runtime.cancel(params.execution_id)  # or gave it back, since it reads nothing
        return Result({"status": execution.status})

    return Later(finish)


@METHODS.method(ordered=True)
async def clear_outputs(call: Call, params: ClearOutputs) -> Result | Later:
    room, runtime = call.room, call.room.runtime
    running = runtime.queue.running
    if params.cell_ids is not None:
        if running is not None and running.cell_id in params.cell_ids:
            raise RequestError.busy(f"cell {running.cell_id!r} is running")
        for cell_id in params.cell_ids:
            if NotebookSchema.read_cell_type(room.notebook.replica, cell_id) not in ("code", None):
                raise RequestError.not_a_code_cell()
            if cell_id not in runtime.cells:
                raise RequestError.not_found("cell")
    # One that is named a thousand times would be written as often.
    cell_ids = room.cells.code_cells() if params.cell_ids is None else list(dict.fromkeys(params.cell_ids))
    return Result({"cell_ids": runtime.clear_outputs(cell_ids)}, cells=True)


def _cell(room: Room, cell_id: str, heads: Heads | None) -> Cell | None:
    return NotebookSchema.read_cell(room.notebook.replica, cell_id, heads)


def _execution_id(asked: str | None) -> str:
    if asked is None:
        return new_id()
    try:
        valid = str(UUID(asked)) == asked
    except ValueError:
        valid = False
    if not valid:
        raise RequestError.invalid_params("execution_id", "execution_id must be a UUID, lower case, with dashes")
    return asked


def _repeated(known: Execution, cell_id: str) -> Result:
    if known.cell_id != cell_id:
        raise RequestError.conflict(f"execution {known.execution_id} is of cell {known.cell_id!r}")
    return Result({"execution_id": known.execution_id}, cells=True)


def _submit(room: Room, chosen: list[tuple[str, Cell]], *, run_id: str | None, stop_on_error: bool) -> None:
    runtime = room.runtime
    if room.closing:  # since the request came; its wait for heads is over only now
        raise RequestError.shutting_down()
    if len(runtime.queue.queued) + len(chosen) > MAX_QUEUED_EXECUTIONS:
        raise RequestError.too_many_requests(f"more than {MAX_QUEUED_EXECUTIONS} executions would be queued")
    for _, cell in chosen:
        if len(cell.source) > MAX_SOURCE_BYTES or len(cell.source.encode()) > MAX_SOURCE_BYTES:
            raise RequestError.too_large(f"the source of cell {cell.cell_id!r} exceeds {MAX_SOURCE_BYTES} bytes")
    for _, cell in chosen:
        room.cells.show(cell.cell_id)
    runtime.submit(
        [(execution_id, cell.cell_id, cell.source) for execution_id, cell in chosen],
        run_id=run_id,
        stop_on_error=stop_on_error,
        may_fail={execution_id for execution_id, cell in chosen if may_fail(cell.metadata)},
    )
    room.kernels.carry_out()
    if chosen:
        room.kernels.launch_in_background()
