"""A notebook's file before it is a room: read, or made."""

import errno
import time
from pathlib import Path
from typing import Any

import structlog
import trio

from daemon.core.kernel_metadata import with_kernel
from daemon.core.notebook_file import parse_notebook, render_notebook
from daemon.core.notebook_model import InvalidNotebook, LoadedNotebook, SavedNotebook
from daemon.files import FileUnreadable, FileUnwritable, FileVersion, read_file, remove_leftovers, write_new
from daemon.http_app import ApiError
from daemon.room import new_id
from kernel_bridge import NoSuchKernel, find_kernelspec

log = structlog.get_logger(__name__)

# A notebook file larger than this is outputs that nobody reads; parsing it would hold most of a machine's memory.
MAX_FILE_BYTES = 512 * 1024 * 1024


async def read_notebook(
    path: Path, *, create: bool, kernel_name: str | None
) -> tuple[LoadedNotebook, FileVersion, bool]:
    """Reads a notebook's file, or makes it; what a crash left of a save beside it goes.

    Args:
        path: the file, resolved.
        create: makes one where there is none.
        kernel_name: the kernelspec that a new one names.

    Returns:
        What is in it, which version of it that is, and whether it was made.

    Raises:
        ApiError: 400, 404, 422, as docs/wire.md lists them.
    """
    await _tidy(path.parent)
    try:
        content = await read_file(path, MAX_FILE_BYTES)
    except FileNotFoundError:
        if not create:
            raise ApiError(404, "not_found", f"there is no file {path.name}; create: true makes it") from None
        metadata = {} if kernel_name is None else await _kernel_metadata(kernel_name)
        data = await trio.to_thread.run_sync(render_notebook, SavedNotebook(metadata=metadata))
        try:
            version = await write_new(path, data, mode=0o666)
        except FileExistsError:  # another program was faster
            return await read_notebook(path, create=False, kernel_name=kernel_name)
        except OSError as error:
            raise ApiError(400, "bad_request", f"the file can't be made: {error.strerror}") from error
        return LoadedNotebook(metadata=metadata), version, True
    except FileUnreadable as error:
        raise ApiError(422, "invalid_notebook", str(error)) from error
    try:
        loaded = await trio.to_thread.run_sync(parse_notebook, content.data, new_id)
    except InvalidNotebook as error:
        raise ApiError(422, "invalid_notebook", str(error)) from error
    if loaded.warnings:
        log.warning("notebook read with repairs", path=str(path), warnings=loaded.warnings)
    return loaded, content.version, False


async def _kernel_metadata(name: str) -> dict[str, Any]:
    """The metadata of a notebook that is made for this kernel."""
    try:
        spec = await trio.to_thread.run_sync(find_kernelspec, name)
    except NoSuchKernel:
        return {"kernelspec": {"name": name, "display_name": name}}
    return with_kernel({}, name=spec.name, display_name=spec.display_name, language=spec.language)


async def _tidy(folder: Path) -> None:
    """Removes what a crash left of a save; that it can't be removed keeps nobody from the notebooks there."""
    try:
        removed = await remove_leftovers(folder, time.time())
    except FileUnwritable as error:
        if error.errno != errno.ENOENT:  # that there is no such folder the opening will say
            log.warning("leftovers of a crash stay", folder=str(folder), reason=str(error))
        return
    if removed:
        log.info("leftovers of a crash removed", folder=str(folder), files=removed)
