"""The requests that peers make of a room: one table of methods, checked parameters, and who may call what.

A handler runs up to its acceptance in order with its connection's other changing requests; what then takes long (a kernel
that starts) goes on beside them as a `Later`.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from uuid import UUID

import msgspec
import trio

from daemon.core.executions import Execution
from daemon.core.runtime import Runtime
from daemon.files import FileChanged, OutsideRoot, PathRefused
from daemon.kernel_life import KernelUnavailable, Pending
from daemon.room import Room, new_id
from daemon.slices import in_slices
from kernel_bridge import Kernel, KernelGone
from kernel_bridge.core.messages import Reply
from sync.blobs import BlobStoreError
from sync.core.identifiers import Heads, InvalidIdentifier, heads_from_hex
from sync.core.jsonrpc import ErrorCode, RequestError
from sync.core.limits import MAX_ID_CHARS, MAX_QUEUED_EXECUTIONS, MAX_SOURCE_BYTES
from sync.core.notebook_schema import Cell, NotebookSchema
from sync.core.peer_changes import Recipient
from sync.core.value_writing import MAX_KEY_CHARS
from sync.writer import HeadsRefused

# The heads of a request come with the peer's next sync message; stock clients hold that back for 100 ms at most.
HEADS_SECONDS = 10.0
# Completions took 15 s once under load (measured), but a person has typed on after 10.
REPLY_SECONDS = 10.0
MAX_HISTORY = 1_000


@dataclass(frozen=True, slots=True)
class Result:
    """A request's result; `cells`: it speaks of cells or sources, so it waits for the notebook document as well."""

    value: Mapping[str, Any]
    cells: bool = False


@dataclass(frozen=True, slots=True)
class Later:
    """Accepted; the answer comes when this is done."""

    finish: Callable[[], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way: to this room, from this peer."""

    room: Room
    recipient: Recipient


Handler: TypeAlias = Callable[[Call, Any], Awaitable[Result | Later]]


@dataclass(frozen=True, slots=True)
class Method:
    """How a method is called. `ordered`: taken in order with the connection's other ordered requests."""

    params: type[msgspec.Struct]
    handler: Handler
    ordered: bool
    viewers: bool = False


METHODS: dict[str, Method] = {}


def _method(*, ordered: bool, viewers: bool = False) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        params = handler.__annotations__["params"]
        METHODS[handler.__name__] = Method(params, handler, ordered, viewers)
        return handler

    return register


class NoParams(msgspec.Struct):
    """A method without parameters."""


class LaunchKernel(msgspec.Struct):
    kernel_name: str | None = None


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


class UpdateComm(msgspec.Struct):
    comm_id: str
    state: dict[str, Any]
    buffer_paths: list[list[str | int]] = []
    buffers: list[bytes] = []


class CommCustom(msgspec.Struct):
    comm_id: str
    content: Any = None
    buffers: list[bytes] = []


class OpenComm(msgspec.Struct):
    comm_id: str
    target_name: str
    data: dict[str, Any] = {}
    buffers: list[bytes] = []


class CloseComm(msgspec.Struct):
    comm_id: str
    data: dict[str, Any] = {}


class InputReply(msgspec.Struct):
    request_id: str
    value: str


class Code(msgspec.Struct):
    code: str
    cursor_pos: int | None = None
    detail_level: Literal[0, 1] = 0


class History(msgspec.Struct):
    n: int = 100
    pattern: str | None = None
    unique: bool = False


class SaveNotebook(msgspec.Struct):
    path: str | None = None


class Barrier(msgspec.Struct):
    notebook_heads: list[str] | None = None


def decode_params(method: Method, params: Mapping[str, Any]) -> msgspec.Struct:
    """The parameters as the method's type; unknown ones are ignored.

    Raises:
        RequestError: invalid_params, with the name of the one that does not fit.
    """
    try:
        return msgspec.convert(params, method.params)
    except msgspec.ValidationError as error:
        text = str(error)
        if "missing required field" in text:
            param = text.split("`")[1]
        else:
            param = text.rpartition("`$.")[2].split("`")[0].split("[")[0] if "`$." in text else "params"
        raise RequestError.invalid_params(param, text) from error


@_method(ordered=True)
async def launch_kernel(call: Call, params: LaunchKernel) -> Result | Later:
    pending = _command(lambda: call.room.kernels.launch(params.kernel_name))

    async def finish() -> Result:
        await _carried_out(pending)
        kernel = _kernel(call.room)
        return Result({"name": kernel.spec.name, "language": kernel.info.language_info.name or kernel.spec.language})

    return Later(finish)


@_method(ordered=True)
async def execute_cell(call: Call, params: ExecuteCell) -> Result | Later:
    room, execution_id = call.room, _execution_id(params.execution_id)
    known = room.runtime.queue.find(execution_id)
    if known is not None:
        return _repeated(known, params.cell_id)
    heads = await _heads(call, params.notebook_heads)
    cell = _cell(room, params.cell_id, heads)
    if cell is None and not room.loaded.is_set():
        await room.loaded.wait()
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


@_method(ordered=True)
async def run_all_cells(call: Call, params: RunAllCells) -> Result | Later:
    room = call.room
    await room.loaded.wait()
    heads = await _heads(call, params.notebook_heads)
    at = room.notebook.heads() if heads is None else heads
    cells = NotebookSchema.in_order(await in_slices(NotebookSchema.iterate_cells(room.notebook.replica, at)))
    chosen = [(new_id(), cell) for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    _submit(room, chosen, run_id=new_id(), stop_on_error=params.stop_on_error)
    executions = [{"cell_id": cell.cell_id, "execution_id": execution_id} for execution_id, cell in chosen]
    return Result({"executions": executions}, cells=True)


@_method(ordered=True)
async def cancel_execution(call: Call, params: CancelExecution) -> Result | Later:
    room = call.room
    execution = room.runtime.queue.find(params.execution_id)
    if execution is None:
        raise RequestError.not_found("execution")
    room.runtime.cancel(params.execution_id)
    return Result({"status": execution.status})


@_method(ordered=False)
async def interrupt(call: Call, params: NoParams) -> Result | Later:
    del params
    await call.room.begun()
    try:
        await _kernel(call.room).interrupt()
    except KernelGone as gone:
        raise RequestError.no_kernel() from gone
    # Nothing can happen between the signal, which is the last that `interrupt` does, and this: it names whom it met.
    return Result({"execution_id": call.room.runtime.interrupt()})


@_method(ordered=False)
async def restart_kernel(call: Call, params: NoParams) -> Result | Later:
    del params
    await _carried_out(_command(call.room.kernels.restart))
    return Result({})


@_method(ordered=False)
async def shutdown_kernel(call: Call, params: NoParams) -> Result | Later:
    del params
    await _carried_out(_command(call.room.kernels.shutdown))
    return Result({})


@_method(ordered=True)
async def clear_outputs(call: Call, params: ClearOutputs) -> Result | Later:
    room, runtime = call.room, call.room.runtime
    running = runtime.queue.running
    if params.cell_ids is not None:
        if running is not None and running.cell_id in params.cell_ids:
            raise RequestError.busy(f"cell {running.cell_id!r} is running")
        for cell_id in params.cell_ids:
            if cell_id not in runtime.cells:
                raise RequestError.not_found("cell")
    cell_ids = room.code_cells() if params.cell_ids is None else params.cell_ids
    return Result({"cell_ids": runtime.clear_outputs(cell_ids)}, cells=True)


@_method(ordered=True)
async def update_comm(call: Call, params: UpdateComm) -> Result | Later:
    runtime = _live_comm(call.room, params.comm_id)
    if not params.state:
        return Result({})
    if not all(0 < len(name) <= MAX_KEY_CHARS for name in params.state):
        raise RequestError.invalid_params("state", f"the name of a trait has 1 to {MAX_KEY_CHARS} characters")
    if not runtime.widgets.update_by_peer(params.comm_id, params.state, params.buffer_paths, params.buffers):
        raise RequestError.too_large("the document has no room for so much state of widgets")
    _sent(call.room)
    return Result({})


@_method(ordered=True)
async def comm_custom(call: Call, params: CommCustom) -> Result | Later:
    runtime = _live_comm(call.room, params.comm_id)
    runtime.widgets.custom_by_peer(params.comm_id, params.content, params.buffers)
    _sent(call.room)
    return Result({})


@_method(ordered=True)
async def comm_open(call: Call, params: OpenComm) -> Result | Later:
    _kernel(call.room)
    if not 0 < len(params.comm_id) <= MAX_ID_CHARS:
        raise RequestError.invalid_params("comm_id", f"a comm id has 1 to {MAX_ID_CHARS} characters")
    widgets = call.room.runtime.widgets
    if not widgets.open_by_peer(params.comm_id, params.target_name, params.data, params.buffers):
        raise RequestError.conflict(f"the comm id {params.comm_id!r} is in use, or was")
    _sent(call.room)
    return Result({})


@_method(ordered=True)
async def comm_close(call: Call, params: CloseComm) -> Result | Later:
    runtime = _live_comm(call.room, params.comm_id)
    runtime.widgets.close_by_peer(params.comm_id, params.data)
    _sent(call.room)
    return Result({})


@_method(ordered=False)
async def input_reply(call: Call, params: InputReply) -> Result | Later:
    if not call.room.runtime.input_reply(params.request_id, params.value):
        raise RequestError.no_input_pending()
    call.room.kernels.carry_out()
    return Result({})


@_method(ordered=False)
async def complete(call: Call, params: Code) -> Result | Later:
    return await _ask(call, "complete_request", {"code": params.code, "cursor_pos": _cursor(params)})


@_method(ordered=False)
async def inspect(call: Call, params: Code) -> Result | Later:
    content = {"code": params.code, "cursor_pos": _cursor(params), "detail_level": params.detail_level}
    return await _ask(call, "inspect_request", content)


@_method(ordered=False)
async def is_complete(call: Call, params: Code) -> Result | Later:
    return await _ask(call, "is_complete_request", {"code": params.code})


@_method(ordered=False)
async def history(call: Call, params: History) -> Result | Later:
    content: dict[str, Any] = {
        "output": False,
        "raw": True,
        "hist_access_type": "tail" if params.pattern is None else "search",
        "n": max(0, min(params.n, MAX_HISTORY)),
    }
    if params.pattern is not None:
        content |= {"pattern": params.pattern, "unique": params.unique}
    reply = await _ask(call, "history_request", content)
    return Result({"history": reply.value.get("history", [])})


@_method(ordered=True)
async def save_notebook(call: Call, params: SaveNotebook) -> Result | Later:
    room = call.room
    try:
        path = None if params.path is None else room.resolve(params.path)
    except OutsideRoot as error:
        raise RequestError.forbidden(str(error)) from error
    except PathRefused as error:
        raise RequestError.invalid_params("path", str(error)) from error

    async def finish() -> Result:
        await room.loaded.wait()
        try:
            # Accepted: a peer that leaves meanwhile has its file all the same.
            with trio.CancelScope(shield=True):
                saved = await room.save(path)
        except FileChanged as changed:
            raise RequestError.conflict(f"the file changed on disk: {changed.reason}") from changed
        except (OSError, BlobStoreError) as error:
            raise RequestError(ErrorCode.INTERNAL, f"the file could not be written: {error}") from error
        return Result(saved, cells=True)

    return Later(finish)


@_method(ordered=True, viewers=True)
async def barrier(call: Call, params: Barrier) -> Result | Later:
    await _heads(call, params.notebook_heads)
    # Everything queued before is committed with the answer; on disk it is when there is a store.
    return Result({"durable": False}, cells=True)


async def _heads(call: Call, hex_heads: list[str] | None) -> Heads | None:
    if hex_heads is None:
        # What the peer sent before the request is in the document that it means.
        await call.room.writer.changes_taken()
        return None
    try:
        heads = heads_from_hex(hex_heads)
    except InvalidIdentifier as error:
        raise RequestError.invalid_params("notebook_heads", str(error)) from error
    try:
        with trio.fail_after(HEADS_SECONDS):
            await call.room.writer.wait_for_heads(heads, call.recipient)
    except (trio.TooSlowError, HeadsRefused) as error:
        raise RequestError.heads_timeout(call.room.writer.missing_heads(heads)) from error
    return heads


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
        # With notebook heads of the past, a cell that is gone by now runs all the same, and has a place to show it.
        runtime.add_cell(cell.cell_id)
    runtime.submit(
        [(execution_id, cell.cell_id, cell.source) for execution_id, cell in chosen],
        run_id=run_id,
        stop_on_error=stop_on_error,
    )
    room.kernels.carry_out()
    if chosen:
        room.kernels.launch_in_background()


def _command(submit: Callable[[], Pending]) -> Pending:
    try:
        return submit()
    except KernelUnavailable as error:
        raise RequestError.too_many_requests(str(error)) from error


async def _carried_out(pending: Pending) -> None:
    try:
        await pending.wait()
    except KernelUnavailable as error:
        raise RequestError.kernel_failed(str(error), error.stderr) from error


def _kernel(room: Room) -> Kernel:
    kernel = room.kernels.kernel
    if kernel is None:
        raise RequestError.no_kernel()
    return kernel


def _live_comm(room: Room, comm_id: str) -> Runtime:
    _kernel(room)
    if comm_id not in room.runtime.widgets.comms.comms:
        raise RequestError.not_found("comm")
    return room.runtime


def _sent(room: Room) -> None:
    room.runtime.take_widgets()
    room.kernels.carry_out()


def _cursor(params: Code) -> int:
    return len(params.code) if params.cursor_pos is None else max(0, min(params.cursor_pos, len(params.code)))


async def _ask(call: Call, msg_type: str, content: dict[str, Any]) -> Result:
    kernel = _kernel(call.room)
    try:
        with trio.fail_after(REPLY_SECONDS):
            reply = await kernel.request("shell", msg_type, content)
    except trio.TooSlowError as error:
        raise RequestError.timeout(f"the kernel did not answer within {REPLY_SECONDS:g} s") from error
    except KernelGone as error:
        raise RequestError.no_kernel() from error
    return Result(reply.content.raw if isinstance(reply.content, Reply) else {})
