"""The open notebooks' rooms: how they are opened, found, and closed, each in a task of its own."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog
import trio
from structlog.contextvars import bind_contextvars

from daemon.closing import CLOSE_SECONDS, save_first
from daemon.collecting import BlobCollector
from daemon.config import Config
from daemon.core.notebook_model import LoadedNotebook
from daemon.files import FileVersion, OutsideRoot, PathRefused, resolve_inside
from daemon.http_app import ApiError
from daemon.kernel_life import MessageCounts
from daemon.memory import give_back
from daemon.opening import read_notebook
from daemon.room import Room, kernel_environment
from daemon.saving import NotSaved, copy_stands, look_at_file
from daemon.unsaved import keep_unsaved
from sync.awaited_heads import WriterEnded
from sync.blobs import BlobStore
from sync.connection import Connection, OpenDocument
from sync.core.document import Document
from sync.core.identifiers import DocumentId
from sync.core.jsonrpc import RequestError
from sync.core.limits import MAX_ROOMS

log = structlog.get_logger(__name__)

# For all notebooks to be saved when the daemon ends: 100 take some 2 s. Who stops a daemon waits for 10 s (docker) to 90.
SAVE_SECONDS = 8.0
# For all kernels to end after that, before they are killed: one that ignores its SIGTERM takes 3.
END_SECONDS = 3.5
# Of CLOSE_SECONDS, for peers to take the last state; a peer that reads needs milliseconds.
DRAIN_SECONDS = 1.0


@dataclass
class Past:
    """What rooms that have ended had counted."""

    commits: int = 0
    successions: int = 0
    executions: Counter[str] = field(default_factory=Counter)
    kernel_messages: MessageCounts = field(default_factory=MessageCounts)

    def add(self, room: Room) -> None:
        """A room ended."""
        self.commits += room.writer.commits
        self.successions += room.writer.successions
        self.executions += room.runtime.ended
        self.kernel_messages += room.kernels.message_counts


@dataclass(eq=False)
class _Closing:
    """A close that somebody asked for; it goes on when they leave."""

    over: trio.Event = field(default_factory=trio.Event)
    error: ApiError | None = None


class Rooms:
    """Rooms by document and by path. `run` owns their tasks; a room's error ends that room alone.

    Attributes:
        by_id: open rooms by the id of their notebook document.
        documents: all that peers may ask for.
        past: what rooms that have ended had counted.

    Args:
        runtime_dir: short and private, for kernels' sockets and connection files.
    """

    def __init__(self, config: Config, *, blobs: BlobStore, runtime_dir: Path) -> None:
        self.by_id: dict[DocumentId, Room] = {}
        self.documents: dict[DocumentId, OpenDocument] = {}
        self.past = Past()
        self._config = config
        self._blobs = blobs
        self._runtime_dir = runtime_dir
        self._opening: dict[Path, trio.Event] = {}
        self._closing = False
        self._keeping: set[trio.Event] = set()  # each is set when what a failed room held is in a copy, or lost
        self._collector = BlobCollector(blobs, lambda: list(self.by_id.values()))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Holds the rooms' tasks until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._collector.run)
            task_status.started()
            await trio.sleep_forever()

    async def close_all(self, *, save: bool) -> None:
        """Closes every room, side by side: kernels end, executions get their final status, peers can have it.

        None is opened any more.
        """
        self._closing = True
        rooms = list(self.by_id.values())
        for room in rooms:
            self._nursery.start_soon(self._finish, room, save)
        with trio.move_on_after(SAVE_SECONDS):
            for room in rooms:
                await room.finished.wait()
        with trio.move_on_after(END_SECONDS):
            async with trio.open_nursery() as nursery:
                for room in rooms:
                    nursery.start_soon(self._close, room, save)
            for kept in list(self._keeping):
                await kept.wait()

    async def open(self, path: str, *, create: bool, kernel_name: str | None) -> tuple[Room, bool]:
        """Opens a notebook file, or finds it open already.

        Returns:
            Its room, and whether its file was created.

        Raises:
            ApiError: as docs/wire.md lists them.
        """
        resolved = self._resolve(path)
        while True:
            room = self._room_at(resolved)
            if (opening := self._opening.get(resolved)) is not None:
                await opening.wait()
            elif room is None:
                break
            elif not room.closing:
                if await self._stands_for_its_file(room):
                    return room, False
            else:
                # It comes back as its file then is.
                await room.ended.wait()
        if self._closing:
            raise ApiError(503, "shutting_down", "the daemon is ending")
        if len(self.by_id) + len(self._opening) >= MAX_ROOMS:
            raise ApiError(429, "too_many_notebooks", f"{MAX_ROOMS} notebooks are open; close some")
        self._opening[resolved] = trio.Event()
        try:
            loaded, version, created = await read_notebook(resolved, create=create, kernel_name=kernel_name)
            if self._closing:  # since: nobody would close it
                raise ApiError(503, "shutting_down", "the daemon is ending")
            room = await self._open_room(resolved, loaded, version, kernel_name)
        finally:
            self._opening.pop(resolved).set()
        return room, created

    async def close(self, notebook_id: str, *, save: bool, peer_id: str | None) -> None:
        """Saves, ends the kernel and closes the room. If it can't be saved, nothing is done.

        Args:
            save: False drops what is not in the file. Where somebody else than the peer `peer_id` is connected, or
                somebody wrote what is in no file, nothing is done.

        Raises:
            ApiError: 404; 403, 409, 500 and 503, where nothing is done; 500 where the room failed meanwhile, and is gone.
        """
        room = self.find(notebook_id)
        if not save:
            copied = await copy_stands(room)  # first: somebody may come, or write, while the disk is asked
            others = [
                one for one in room.notebook.subscribers if not isinstance(one, Connection) or one.peer_id != peer_id
            ]
            if others or room.file.edited or not copied:
                raise ApiError(409, "conflict", "somebody is connected to it, or wrote what is in no file")
        # Not in this task, which ends if whoever asked does not wait for the answer.
        closing = _Closing()
        self._nursery.start_soon(self._close_as_asked, room, save, closing)
        await closing.over.wait()
        if closing.error is not None:
            raise closing.error

    def find(self, notebook_id: str) -> Room:
        """The open room of the notebook with this id.

        Raises:
            ApiError: 404.
        """
        room = self.by_id.get(DocumentId(notebook_id))
        if room is None:
            raise ApiError(404, "not_found", f"no open notebook has the id {notebook_id!r}")
        return room

    # Inside.

    def _resolve(self, path: str) -> Path:
        """A path from outside as a file inside the root.

        Raises:
            ApiError: 400 or 403.
        """
        try:
            return resolve_inside(self._config.root, path)
        except OutsideRoot as error:
            raise ApiError(403, "outside_root", str(error)) from error
        except PathRefused as error:
            raise ApiError(400, "bad_request", str(error)) from error

    def _room_at(self, path: Path) -> Room | None:
        return next((room for room in self.by_id.values() if room.path == path), None)

    async def _open_room(
        self, path: Path, loaded: LoadedNotebook, version: FileVersion, kernel_name: str | None
    ) -> Room:
        room = Room(
            path=path,
            unsaved=self._config.state_dir / "unsaved",
            loaded=loaded,
            version=version,
            kernel_name=kernel_name,
            blobs=self._blobs,
            runtime_dir=self._runtime_dir,
            kernel_env=kernel_environment(lambda key: key.startswith("NOTEBOOKD_")),
            show=self._show,
            resolve=partial(resolve_inside, self._config.root),
            reserve=self._reserve,
            serve=self._serve,
            stop_serving=self._stop_serving,
        )
        self.by_id[room.notebook.id] = room
        self.documents[room.notebook.id] = OpenDocument(room.notebook, room.writer)
        self._serve(room.runtime_document)
        await self._nursery.start(self._run_room, room)
        log.info("notebook opened", room=room.id, path=room.shown_path)
        return room

    async def _run_room(self, room: Room, task_status: trio.TaskStatus[None]) -> None:
        bind_contextvars(room=room.id)
        try:
            await room.run(task_status)
        except Exception as error:
            # The policy line: an error in one room closes it, and nothing else. What is cancelled is not caught here.
            log.exception("room failed", room=room.id, path=room.shown_path)
            room.failed = True
            self.by_id.pop(room.notebook.id, None)  # whoever wants the notebook need not wait
            await self._keep_of_failed(room, error)
        finally:
            self.by_id.pop(room.notebook.id, None)
            self.past.add(room)
            self._collector.room_closed()
            for _, document in room.documents:
                self._stop_serving(document, RequestError.shutting_down())

    async def _keep_of_failed(self, room: Room, error: Exception) -> None:
        """What a room held that failed need not be sound, so it is not saved over the file."""
        if not room.unsaved_work:
            return
        kept, done = trio.Event(), False
        self._keeping.add(kept)
        try:
            await keep_unsaved(room, f"the room failed: {error!r}")
            done = True
        except Exception:
            # The policy line, as in `_run_room`.
            log.exception("what a room held that failed is lost", room=room.id, path=room.shown_path)
            done = True
        finally:
            if not done:
                log.error(
                    "what a room held that failed is lost: a copy took too long", room=room.id, path=room.shown_path
                )
            self._keeping.discard(kept)
            kept.set()

    def _show(self, path: Path) -> str:
        """A path as peers see it."""
        root = self._config.root
        return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)

    @asynccontextmanager
    async def _reserve(self, path: Path) -> AsyncIterator[None]:
        """A file that is no room's is not opened meanwhile, nor written by another room.

        Raises:
            NotSaved: it is a room's.
        """
        while (opening := self._opening.get(path)) is not None:
            await opening.wait()
        if self._room_at(path) is not None:
            raise NotSaved("conflict", f"{self._show(path)} is open as another notebook: close that first")
        self._opening[path] = trio.Event()
        try:
            yield
        finally:
            self._opening.pop(path).set()

    async def _stands_for_its_file(self, room: Room) -> bool:
        """Whether an open room is what there is to open. One whose file holds something else by now is closed, if that takes
        nothing from anybody; else `file` says that they differ.
        """
        if not room.file.loaded.is_set():
            return True  # it was read just now
        try:
            await room.settled()
            differs = await look_at_file(room)
            if differs and room.unused:
                log.info("file changed while nobody had it open; it is read again", room=room.id, path=room.shown_path)
                # It has nothing to save, unless a peer comes this very moment.
                self._nursery.start_soon(self._close, room, True)
                await room.ended.wait()
                return False
            if differs:
                room.file.tell("conflict", "the file was changed by somebody else since it was opened")
            await room.writer.flush()  # whoever asked finds in the document what was found out
        except (WriterEnded, RequestError):  # it failed, or was closed
            await room.ended.wait()
            return False
        return True

    def _serve(self, runtime: Document) -> None:
        """Peers may ask for this runtime document."""
        self.documents[runtime.id] = OpenDocument(runtime, None)

    def _stop_serving(self, document: Document, error: RequestError | None = None) -> None:
        """Peers that hold the document hear that it is gone; `error`: what requests hear whose answers speak of it."""
        error = error or RequestError.timeout(
            f"it was done, but the answer speaks of {document.url}, which was replaced"
        )
        self.documents.pop(document.id, None)
        for subscriber in list(document.subscribers):
            if isinstance(subscriber, Connection):
                subscriber.document_closed(document.id, error)
        document.release()

    async def _finish(self, room: Room, save: bool) -> None:
        """In a task that nobody waits for: one whose disk does not answer takes no time from the others."""
        try:
            await room.finish(save=save)
        except Exception:
            # The policy line: a bug met here is no reason for the other rooms not to be saved.
            log.exception("a room could not be finished", room=room.id, path=room.shown_path)

    async def _close_as_asked(self, room: Room, save: bool, closing: _Closing) -> None:
        try:
            if save and not room.closing:
                await save_first(room)
            await self._close(room, save)
            if room.failed and save:
                raise ApiError(
                    500, "internal", "the notebook failed while it was closed; the log says what became of it"
                )
        except ApiError as error:
            closing.error = error
        except Exception:
            # The policy line: a bug met here is no reason for the other rooms to end, nor for this one.
            log.exception("closing failed", room=room.id, path=room.shown_path)
            closing.error = ApiError(500, "internal", "internal error; the notebook stays open")
        finally:
            closing.over.set()

    async def _close(self, room: Room, save: bool) -> None:
        with trio.move_on_after(CLOSE_SECONDS) as scope:
            await room.close(save=save)
            # When the room has ended, what its peers were not written yet is gone.
            with trio.move_on_after(DRAIN_SECONDS):
                async with trio.open_nursery() as nursery:
                    for subscriber in list(room.notebook.subscribers):
                        if isinstance(subscriber, Connection):
                            nursery.start_soon(subscriber.drain)
        if scope.cancelled_caught:
            log.error("room did not close in time; it is cancelled", room=room.id)
        room.cancel()
        await room.ended.wait()
        if not self._closing:
            # Where a notebook's replicas were stays ours otherwise (measured: 8 MiB of 77 after small ones).
            await give_back()
