"""One cell of an open notebook."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sync.client.errors import NotebookError
from sync.client.executions import Execution
from sync.client.outputs import Output
from sync.core import notebook_schema
from sync.core.binding import Transaction
from sync.core.limits import MAX_SOURCE_BYTES
from sync.core.notebook_schema import NotebookSchema
from sync.core.runtime_reading import read_cell

if TYPE_CHECKING:
    from sync.client.notebook import Notebook

# Characters written in one change: the daemon takes 100 000 operations at most, and each is one.
SLICE = 20_000


class Cell:
    """One cell, by its id: it stays the same cell wherever it moves. Two objects for one cell are equal."""

    def __init__(self, notebook: "Notebook", cell_id: str) -> None:
        self.id = cell_id
        self._notebook = notebook

    def __repr__(self) -> str:
        return f"Cell({self.id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and other.id == self.id and other._notebook is self._notebook

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def exists(self) -> bool:
        """Whether it was not deleted."""
        return NotebookSchema.read_source(self._notebook.notebook_replica, self.id) is not None

    @property
    def source(self) -> str:
        """Its text.

        Raises:
            NotebookError: the cell was deleted; as for the other properties.
        """
        source = NotebookSchema.read_source(self._notebook.notebook_replica, self.id)
        if source is None:
            raise self._gone()
        return source

    @property
    def cell_type(self) -> str:
        """code, markdown or raw."""
        return self._read().cell_type

    @property
    def metadata(self) -> dict[str, Any]:
        """Its metadata: a copy."""
        return dict(self._read().metadata)

    @property
    def outputs(self) -> list[Output]:
        """What is shown below it now. Values of more than 1 KiB that were not loaded yet are `BlobRef`s; see `Output`."""
        return self._notebook.decode_outputs(self.manifests())

    @property
    def execution_count(self) -> int | None:
        """The kernel's number of the execution whose outputs are shown."""
        count = (self._shown() or {}).get("execution_count")
        return count if isinstance(count, int) else None

    async def load_outputs(self) -> list[Output]:
        """Its outputs, with all their blobs."""
        return await self._notebook.load_outputs(self.manifests())

    async def execute(self) -> Execution:
        """Queues it, with the source that is read here now, and launches a kernel if none runs.

        Should the connection break, the daemon is asked again, and runs it once all the same.

        Raises:
            RequestFailed: the daemon does not run it: it is no code cell, it was deleted, ...
            ConnectionLost: the connection was given up.
        """
        return await self._notebook.execute(self)

    def edit(self, text: str) -> None:
        """Makes this its source; only what differs is touched, so that others' edits at other places stay.

        Raises:
            NotebookError: the notebook is read-only, or the cell was deleted.
            ValueError: longer than 1 MiB.
        """
        check_source(text)
        edit = NotebookSchema.source_edit(self._notebook.notebook_replica, self.id, text)
        if edit is None:
            raise self._gone()
        while not edit.done:
            self._notebook.write(lambda tx: edit.write(tx, SLICE), places={})

    def move(self, *, before: "Cell | str | None" = None, after: "Cell | str | None" = None) -> None:
        """Puts it before or after another cell, or to the end. Before or after itself it stays where it is.

        Raises:
            NotebookError: the notebook is read-only, or one of the two cells is gone.
        """
        if not self.exists:
            raise self._gone()
        if (before, after) in ((self, None), (self.id, None), (None, self), (None, self.id)):
            return
        others = [placed for placed in self._notebook.order() if placed.cell_id != self.id]
        position, moved = self._notebook.place(others, before, after)

        def write(tx: Transaction) -> bool:
            for other, fresh in moved:
                NotebookSchema.set_position(tx, other, fresh)
            return NotebookSchema.set_position(tx, self.id, position)

        self._notebook.write(write, places={**dict(moved), self.id: position})

    def delete(self) -> None:
        """Deletes it; nothing if it is gone already.

        Raises:
            NotebookError: the notebook is read-only.
        """
        self._notebook.write(lambda tx: NotebookSchema.delete_cell(tx, self.id))

    def manifests(self) -> list[Mapping[str, Any]]:
        """Its outputs as the document has them (docs/wire.md)."""
        outputs = (self._shown() or {}).get("outputs")
        return outputs if isinstance(outputs, list) else []

    def _shown(self) -> dict[str, Any] | None:
        return read_cell(self._notebook.runtime_replica, self.id)

    def _read(self) -> notebook_schema.Cell:
        cell = NotebookSchema.read_cell(self._notebook.notebook_replica, self.id)
        if cell is None:
            raise self._gone()
        return cell

    def _gone(self) -> NotebookError:
        return NotebookError(f"the cell {self.id!r} was deleted")


def check_source(source: str) -> None:
    """Raises ValueError for a source that the daemon would refuse."""
    if len(source.encode(errors="replace")) > MAX_SOURCE_BYTES:
        raise ValueError(f"a source has at most {MAX_SOURCE_BYTES} bytes")
