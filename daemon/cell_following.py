"""Keeps the runtime document's cells in step with the notebook's, which peers write as they like.

A code cell has a place for its outputs from the moment that it is there, and for a while after it is gone: an undo may bring it
back. Root keys that a peer overwrote are put back, and cells whose position is none get one.
"""

import math
from collections.abc import Callable, Collection

import structlog
import trio

from daemon.core.runtime import Runtime
from daemon.rekeying import Rekeying
from sync.core.cell_order import read_order
from sync.core.document import Document
from sync.core.notebook_schema import NotebookSchema
from sync.core.steps import Steps

# How long outputs of a cell that was deleted are kept: an undo brings the cell back.
GONE_CELL_SECONDS = 600.0

log = structlog.get_logger(__name__)


class CellFollower:
    """For one room.

    Args:
        runtime_url: the runtime document's, now.
        moved: called when `deadline` may be nearer than before.
    """

    def __init__(
        self, notebook: Document, runtime: Runtime, *, runtime_url: Callable[[], str], moved: Callable[[], None]
    ) -> None:
        self._notebook = notebook
        self._runtime = runtime
        self._runtime_url = runtime_url
        self._moved = moved
        self._cells_object = NotebookSchema.cells_object(notebook.replica)
        self._rekeying = Rekeying(notebook, runtime.write_notebook)
        # Cells that are gone, and when their outputs go.
        self.gone: dict[str, float] = {}

    def code_cells(self) -> list[str]:
        """Ids of the code cells, in order."""
        return [cell.cell_id for cell in read_order(self._notebook.replica) if cell.cell_id in self._runtime.cells]

    def show(self, cell_id: str) -> None:
        """Has a place for a cell's outputs. One that is gone, where a request means the past, has it for a while."""
        if cell_id not in self._runtime.cells:
            self._runtime.add_cell(cell_id)
            if NotebookSchema.read_cell_type(self._notebook.replica, cell_id) != "code":
                self._keep_for_a_while(cell_id)

    def notebook_changed(self, keys: Collection[str] | None) -> Steps[None]:
        """Peers' changes were applied.

        Args:
            keys: of maps that they wrote, cells' ids among them; None if that is not known.
        """
        self._rekeying.edited(trio.current_time())
        if keys is not None and not keys:
            return
        replica = self._notebook.replica
        restoration = NotebookSchema.restore_roots(replica, self._runtime_url(), self._cells_object)
        if restoration is not None:
            log.warning("a peer overwrote root keys of the notebook; they are restored", room=self._notebook.id)
            while not restoration.done:
                self._notebook.commit(restoration.write)
                yield
            self._cells_object = NotebookSchema.cells_object(replica)
            keys = None
        if keys is None:
            keys = self._runtime.cells.union(NotebookSchema.cell_ids(replica))
        for cell_id in keys:
            self._follow(cell_id)
            yield
        self._rekeying.edited(trio.current_time())
        self._moved()

    @property
    def deadline(self) -> float:
        """When `expire` is to be called, by Trio's clock."""
        return min(self._rekeying.deadline, min(self.gone.values(), default=math.inf))

    def expire(self, now: float) -> None:
        """Does what is due."""
        self._rekeying.expire(now)
        for cell_id in [cell_id for cell_id, at in self.gone.items() if at <= now]:
            del self.gone[cell_id]
            self._runtime.remove_cell(cell_id)

    def _follow(self, cell_id: str) -> None:
        self._rekeying.look(cell_id)
        if NotebookSchema.read_cell_type(self._notebook.replica, cell_id) == "code":
            self.gone.pop(cell_id, None)
            self._runtime.add_cell(cell_id)
        elif cell_id in self._runtime.cells and cell_id not in self.gone:
            self._runtime.cell_gone(cell_id)
            self._keep_for_a_while(cell_id)

    def _keep_for_a_while(self, cell_id: str) -> None:
        self.gone[cell_id] = trio.current_time() + GONE_CELL_SECONDS
        self._moved()
