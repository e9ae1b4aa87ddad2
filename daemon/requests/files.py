"""Requests about what is kept: the notebook's file, and everything accepted before."""

import errno

import msgspec
import trio

from daemon.files import FileChanged, FileUnwritable, OutsideRoot, PathRefused
from daemon.requests.methods import Call, Later, Methods, Result
from sync.blobs import BlobStoreError
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
        await room.loaded.wait()
        try:
            # Accepted: a peer that leaves meanwhile has its file all the same.
            with trio.CancelScope(shield=True):
                saved = await room.save(path)
        except FileChanged as changed:
            raise RequestError.conflict(f"the file changed on disk: {changed.reason}") from changed
        except FileUnwritable as error:
            if error.errno == errno.ENOENT:
                raise RequestError.not_found("folder") from error
            raise RequestError.forbidden(f"the file can't be written: {error.reason}") from error
        except (OSError, BlobStoreError) as error:
            raise RequestError(ErrorCode.INTERNAL, f"the file could not be written: {error}") from error
        return Result(saved, cells=True)

    return Later(finish)


@METHODS.method(ordered=True, viewers=True)
async def barrier(call: Call, params: Barrier) -> Result | Later:
    await call.heads(params.notebook_heads)
    # Everything queued before is committed with the answer; on disk it is when there is a store.
    return Result({"durable": False}, cells=True)
