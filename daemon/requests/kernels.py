"""Requests to a room's kernel: begin and end it, interrupt it, answer what it asks, ask it about code."""

from collections.abc import Callable
from typing import Any, Literal

import msgspec
import trio

from daemon.core.readable import is_readable
from daemon.kernel_life import KernelUnavailable, Pending
from daemon.requests.methods import Call, Later, Methods, NoParams, Result
from kernel_bridge import KernelGone, KernelUnread
from kernel_bridge.core.messages import Reply
from sync.core.jsonrpc import RequestError

# Completions took 15 s once under load (measured), but a person has typed on after 10.
REPLY_SECONDS = 10.0
MAX_HISTORY = 1_000

# What every result has by us; a kernel that uses the same words does not speak of our documents.
_OURS = frozenset({"runtime", "heads", "notebook_heads"})

METHODS = Methods()


class LaunchKernel(msgspec.Struct):
    kernel_name: str | None = None


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


@METHODS.method(ordered=True)
async def launch_kernel(call: Call, params: LaunchKernel) -> Result | Later:
    pending = _command(lambda: call.room.kernels.launch(params.kernel_name))

    async def finish() -> Result:
        await _carried_out(pending)
        kernel = call.kernel()
        return Result({"name": kernel.spec.name, "language": kernel.info.language or kernel.spec.language})

    return Later(finish)


@METHODS.method(ordered=False)
async def interrupt(call: Call, params: NoParams) -> Result | Later:
    del params
    await call.room.begun()
    try:
        # While one starts there is no process to stop, but what waits for it.
        if call.room.kernels.kernel is not None or not call.room.runtime.queue.queued:
            await call.kernel().interrupt()
    except KernelGone as gone:
        raise RequestError.no_kernel() from gone
    except KernelUnread as unread:
        raise RequestError.busy(str(unread)) from unread
    # Nothing can happen between the signal, which is the last that `interrupt` does, and this: it names whom it met.
    execution_id = call.room.runtime.interrupt()
    call.room.kernels.carry_out()
    return Result({"execution_id": execution_id})


@METHODS.method(ordered=False)
async def restart_kernel(call: Call, params: NoParams) -> Result | Later:
    del params
    await _carried_out(_command(call.room.kernels.restart))
    return Result({})


@METHODS.method(ordered=False)
async def shutdown_kernel(call: Call, params: NoParams) -> Result | Later:
    del params
    await _carried_out(_command(call.room.kernels.shutdown))
    return Result({})


@METHODS.method(ordered=False)
async def input_reply(call: Call, params: InputReply) -> Result | Later:
    if not call.room.runtime.input_reply(params.request_id, params.value):
        raise RequestError.no_input_pending()
    call.room.kernels.carry_out()
    return Result({})


@METHODS.method(ordered=False)
async def complete(call: Call, params: Code) -> Result | Later:
    return await _ask(call, "complete_request", {"code": params.code, "cursor_pos": _cursor(params)})


@METHODS.method(ordered=False)
async def inspect(call: Call, params: Code) -> Result | Later:
    content = {"code": params.code, "cursor_pos": _cursor(params), "detail_level": params.detail_level}
    return await _ask(call, "inspect_request", content)


@METHODS.method(ordered=False)
async def is_complete(call: Call, params: Code) -> Result | Later:
    return await _ask(call, "is_complete_request", {"code": params.code})


@METHODS.method(ordered=False)
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


def _cursor(params: Code) -> int:
    return len(params.code) if params.cursor_pos is None else max(0, min(params.cursor_pos, len(params.code)))


async def _ask(call: Call, msg_type: str, content: dict[str, Any]) -> Result:
    kernel = call.kernel()
    try:
        with trio.fail_after(REPLY_SECONDS):
            reply = await kernel.request("shell", msg_type, content)
    except trio.TooSlowError as error:
        raise RequestError.timeout(f"the kernel did not answer within {REPLY_SECONDS:g} s") from error
    except KernelGone as error:
        raise RequestError.no_kernel() from error
    except KernelUnread as error:
        raise RequestError.busy(str(error)) from error
    said = reply.content.raw if isinstance(reply.content, Reply) else {}
    if not is_readable(said):
        raise RequestError.too_large("the kernel's answer has too many parts or levels")
    return Result({name: value for name, value in said.items() if name not in _OURS})
