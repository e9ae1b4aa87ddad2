"""Requests to comms, of widgets and others: what a peer sets, says, opens and closes."""

from typing import Any

import msgspec

from daemon.core.comm import OUTPUT_TRAITS
from daemon.core.comm_buffers import is_place, join_buffers
from daemon.core.runtime import Runtime
from daemon.requests.methods import Call, Later, Methods, Result
from daemon.room import Room
from sync.core.jsonrpc import RequestError
from sync.core.limits import MAX_ID_CHARS
from sync.core.value_writing import MAX_KEY_CHARS

METHODS = Methods()


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


@METHODS.method(ordered=True)
async def update_comm(call: Call, params: UpdateComm) -> Result | Later:
    runtime = _live_comm(call, params.comm_id)
    if len(params.buffers) != len(params.buffer_paths):
        raise RequestError.invalid_params(
            "buffers", "each buffer has its path in buffer_paths, and each path its buffer"
        )
    if not all(is_place(params.state, path) for path in params.buffer_paths):
        raise RequestError.invalid_params("buffer_paths", "a path leads to a trait, or into a list or map of the state")
    state = join_buffers(params.state, params.buffer_paths, params.buffers)
    if not all(0 < len(name) <= MAX_KEY_CHARS for name in state):
        raise RequestError.invalid_params("state", f"the name of a trait has 1 to {MAX_KEY_CHARS} characters")
    if params.comm_id in runtime.widgets.captures and not OUTPUT_TRAITS.isdisjoint(state):
        # `comms[id].outputs` has one writer, and captures are the kernel's business.
        raise RequestError.invalid_params(
            "state", "what an Output widget holds and captures is set by the kernel alone"
        )
    if not runtime.widgets.update_by_peer(params.comm_id, state):
        raise RequestError.too_large("the document has no room for so much state of widgets")
    _sent(call.room)
    return Result({})


@METHODS.method(ordered=True)
async def comm_custom(call: Call, params: CommCustom) -> Result | Later:
    runtime = _live_comm(call, params.comm_id)
    runtime.widgets.custom_by_peer(params.comm_id, params.content, params.buffers)
    if not _sent(call.room):
        raise RequestError.busy("the kernel has left so many messages unread that it took no more")
    return Result({})


@METHODS.method(ordered=True)
async def comm_open(call: Call, params: OpenComm) -> Result | Later:
    call.kernel()
    if not 0 < len(params.comm_id) <= MAX_ID_CHARS:
        raise RequestError.invalid_params("comm_id", f"a comm id has 1 to {MAX_ID_CHARS} characters")
    widgets = call.room.runtime.widgets
    if not widgets.open_by_peer(params.comm_id, params.target_name, params.data, params.buffers):
        raise RequestError.conflict(f"the comm id {params.comm_id!r} is in use, or was")
    _sent(call.room)
    return Result({})


@METHODS.method(ordered=True)
async def comm_close(call: Call, params: CloseComm) -> Result | Later:
    runtime = _live_comm(call, params.comm_id)
    runtime.widgets.close_by_peer(params.comm_id, params.data)
    _sent(call.room)
    return Result({})


def _live_comm(call: Call, comm_id: str) -> Runtime:
    call.kernel()
    if comm_id not in call.room.runtime.widgets.comms.comms:
        raise RequestError.not_found("comm")
    return call.room.runtime


def _sent(room: Room) -> bool:
    """Hands on what the request did; False if the kernel reads nothing."""
    room.runtime.take_widgets()
    return room.kernels.carry_out()
