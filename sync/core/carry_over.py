"""What a notebook document showed, written into one that had to be made anew from older changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sync.core.binding import Reader, Transaction
from sync.core.notebook_schema import Cell, NotebookSchema


@dataclass(frozen=True, slots=True)
class Shown:
    """The content of a notebook document, without its history."""

    cells: Sequence[Cell]
    metadata: Mapping[str, Any]

    @classmethod
    def of(cls, reader: Reader) -> "Shown":
        """Reads all of it."""
        return cls(NotebookSchema.read_cells(reader), NotebookSchema.read_metadata(reader))

    def write(self, tx: Transaction) -> None:
        """Makes the document show this; what it shows already is left alone. 8 us a character that differs."""
        there = {cell.cell_id: cell for cell in NotebookSchema.read_cells(tx)}
        for cell in self.cells:
            if cell.cell_id not in there:
                NotebookSchema.add_cell(tx, cell)
            elif cell != there[cell.cell_id]:
                _change(tx, there[cell.cell_id], cell)
        for cell_id in there.keys() - {cell.cell_id for cell in self.cells}:
            NotebookSchema.delete_cell(tx, cell_id)
        NotebookSchema.set_metadata(tx, self.metadata)


def _change(tx: Transaction, old: Cell, new: Cell) -> None:
    NotebookSchema.edit_source(tx, new.cell_id, new.source)
    NotebookSchema.set_cell_metadata(tx, new.cell_id, new.metadata)
    if new.cell_type != old.cell_type:
        NotebookSchema.set_cell_type(tx, new.cell_id, new.cell_type)
    if new.position is not None and new.position != old.position:
        NotebookSchema.set_position(tx, new.cell_id, new.position)
    if new.attachments != old.attachments:
        NotebookSchema.set_attachments(tx, new.cell_id, new.attachments)
