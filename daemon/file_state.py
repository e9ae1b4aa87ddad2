"""What stands in a notebook's file: which state of the documents, since when, and what peers are told of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import trio

from daemon.core.runtime import Runtime
from daemon.files import FileVersion
from sync.core.document import Document
from sync.core.identifiers import Heads, heads_to_hex
from sync.core.mutations import FileStatus, SetFile
from sync.core.urgency import Urgency
from sync.writer import DocWriter

# A state of the notebook as a file would have it: the heads of what people wrote, and a count of output changes.
State: TypeAlias = tuple[Heads, int]


class FileState:
    """The file of one room, and the last copy of it under another name.

    Attributes:
        version: the file as it was last read or written.
        status: what peers are told that it is.
        loaded: all of it is in the documents.
        load_error: why the documents do not hold all that is in the file; it is then never saved over.
        saved: the state that is in the file; None if nobody can tell.
        copied: the state that somebody had written to a file of another name.
        copy: that file, as it then was.
    """

    def __init__(self, version: FileVersion, *, notebook: Document, runtime: Runtime, writer: DocWriter) -> None:
        self.version = version
        self.status: FileStatus = "loading"
        self.loaded = trio.Event()
        self.load_error: str | None = None
        self.saved: State | None = None
        self.copied: State | None = None
        self.copy: tuple[Path, FileVersion] | None = None
        self._notebook = notebook
        self._runtime = runtime
        self._writer = writer
        # The notebook's heads before the last roll-over, which is no edit, and after it.
        self._moved: tuple[Heads, Heads] | None = None

    @property
    def state(self) -> State:
        """Which state a file would have now."""
        return self._notebook.published_heads(), self._writer.file_changes

    @property
    def changed(self) -> bool:
        """Whether the documents differ from the file."""
        return self.loaded.is_set() and self.saved != self.state

    @property
    def edited(self) -> bool:
        """Whether people wrote what is in no file."""
        heads = self._notebook.heads()
        return not self.loaded.is_set() or all(
            state is None or state[0] != heads for state in (self.saved, self.copied)
        )

    def note_saved(self, state: State) -> None:
        """This state, as it was rendered, is in the file."""
        self.saved = self.as_now(state)

    def note_copied(self, path: Path, version: FileVersion, state: State) -> None:
        """This state, as it was rendered, is in a file of another name."""
        self.copy = path, version
        self.copied = self.as_now(state)

    def as_now(self, state: State) -> State:
        """A state that was rendered, with the heads that it has since a roll-over, if there was one meanwhile."""
        return (self._moved[1], state[1]) if self._moved is not None and self._moved[0] == state[0] else state

    def note_successor(self) -> None:
        """The notebook document names another runtime document: that change is in no file, and makes none another."""
        before, heads = self._notebook.published_heads(), self._notebook.heads()
        self._moved = before, heads
        if self.copied is not None and self.copied[0] == before:
            self.copied = (heads, self.copied[1])
        if self.saved is not None and self.saved[0] == before:
            self.saved = (heads, self.saved[1] if self.changed else self._writer.file_changes)
            self._runtime.mutate([SetFile(saved_notebook_heads=tuple(heads_to_hex(heads)))])

    def tell(self, status: FileStatus, error: str | None = None) -> None:
        """Says in the runtime document what the file is, and what is wrong with it."""
        self.status = status
        self._runtime.mutate([SetFile(status=status, error=error)], Urgency.URGENT)

    def tell_saved(self, heads: Sequence[str], saved_at: str) -> None:
        """Says which state the file has, and since when."""
        self.status = "ready"
        file = SetFile(status="ready", error=None, saved_notebook_heads=tuple(heads), saved_at=saved_at)
        self._runtime.mutate([file], Urgency.URGENT)
