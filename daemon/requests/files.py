"""Requests about what is kept: the notebook's file, and everything accepted before."""

import msgspec
import trio

from daemon.files import OutsideRoot, PathRefused
from daemon.requests.methods import Call, Later, Methods, Result
from daemon.saving import NotSaved
from sync.core.jsonrpc import ErrorCode, RequestError

METHODS = Methods()


class SaveNotebook(msgspec.Struct):
    path: str | None = None


class Barrier(msgspec.Struct):
    notebook_heads: list[str] | None = None


@METHODS.method(ordered=True)
async def save_notebook(call: Call, params: SaveNotebook) -> Result | Later:
    room = call.room
    try:
        path = None if params.path is None else room.resolve(params.path)
    except OutsideRoot as error:
        raise RequestError.forbidden(str(error)) from error
    except PathRefused as error:
        raise RequestError.invalid_params("path", str(error)) from error

    async def finish() -> Result:
        await room.file.loaded.wait()
        await room.next_inputs.settled()
        try:
            # Accepted: a peer that leaves meanwhile has its file all the same.
            with trio.CancelScope(shield=True):
                saved = await room.save(path)
        except NotSaved as error:
            raise _refused(error) from error
        return Result(saved, cells=True)

    return Later(finish)


def _refused(error: NotSaved) -> RequestError:
    match error.reason:
        case "conflict":
            return RequestError.conflict(error.message)
        case "not_found":
            return RequestError.not_found("folder")
        case "forbidden":
            return RequestError.forbidden(error.message)
        case "internal":
            return RequestError(ErrorCode.INTERNAL, error.message)


@METHODS.method(ordered=True, viewers=True)
async def barrier(call: Call, params: Barrier) -> Result | Later:
    await call.heads(params.notebook_heads)
    # Everything queued before is committed with the answer; on disk it is when there is a store.
    return Result({"durable": False}, cells=True)
