"""Notebook documents: cells, sources, metadata. The only code that knows their keys (docs/wire.md, "Notebook document").

Any editor peer writes here, so nothing is taken for granted in reading: a string may be a text object (as JavaScript
writes strings) or a register, a field that is missing or of another type reads as its default, and no cell is ever left
out. What is written follows the rules: `source` is a text, edited a character at a time so that edits of others merge and
their cursors hold; all else is native maps, lists and registers.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast, get_args

from sync.core.binding import ROOT, Found, Kind, ObjId, Reader, Transaction, same_object
from sync.core.identifiers import Heads
from sync.core.plain import (
    INT,
    MAP,
    STR,
    count_operations,
    is_key,
    put_map,
    put_value,
    read_plain,
    read_string,
    update_map,
)
from sync.core.positions import MAX_LENGTH, sort_key
from sync.core.source_edit import SLICE, SourceEdit

SCHEMA_VERSION = 1

CellType: TypeAlias = Literal["code", "markdown", "raw"]
_DEFAULT_TYPE: CellType = "code"

# Longer words than this are not read where one of three is expected.
_MAX_CELL_TYPE_CHARS = 16
# A kernelspec's name is that of its folder.
_MAX_KERNEL_NAME_CHARS = 255


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell as it reads: `position` is what stands there if it is a string of at most 64 characters, else None.

    `attachments` is `{name: {mime: value}}` with the values of docs/wire.md, None where there are none.
    """

    cell_id: str
    cell_type: CellType
    position: str | None
    source: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    attachments: Mapping[str, Any] | None = None


def may_fail(metadata: Mapping[str, Any]) -> bool:
    """Whether a cell's metadata has Jupyter's tag for a cell that is meant to raise: its error ends no run."""
    tags = metadata.get("tags")
    return isinstance(tags, list) and "raises-exception" in tags


class NotebookSchema:
    """What can be read and written in a notebook document; has no state.

    Writes name cells by id and return whether there is such a cell: someone may just have deleted it. `reader` is a
    replica or an open transaction, `heads` an earlier state.
    """

    # --- Reading

    @staticmethod
    def cells_object(reader: Reader, heads: Heads | None = None) -> ObjId | None:
        """The map of all cells; None if there is none. `same_object` tells whether it is still the one that it was."""
        return _map_at(reader, ROOT, "cells", heads)

    @staticmethod
    def read_cells(reader: Reader, heads: Heads | None = None) -> list[Cell]:
        """All cells in order; 35 ms for 1 000 cells of 470 characters."""
        return NotebookSchema.in_order(NotebookSchema.iterate_cells(reader, heads))

    @staticmethod
    def in_order(cells: Iterable[Cell]) -> list[Cell]:
        """Cells as people see them, one below the other."""
        return sorted(cells, key=lambda cell: sort_key(cell.position, cell.cell_id))

    @staticmethod
    def iterate_cells(reader: Reader, heads: Heads | None = None) -> Iterator[Cell]:
        """All cells by id, each read when it is asked for; with `heads` the document may change meanwhile."""
        cells = NotebookSchema.cells_object(reader, heads)
        return iter(()) if cells is None else _iterate(reader, cells, heads)

    @staticmethod
    def read_cell(reader: Reader, cell_id: str, heads: Heads | None = None) -> Cell | None:
        """One cell, None if there is none with this id."""
        cells = NotebookSchema.cells_object(reader, heads)
        found = None if cells is None else reader.get(cells, cell_id, heads)
        return None if found is None else _read_cell(reader, cell_id, found, heads)

    @staticmethod
    def read_source(reader: Reader, cell_id: str, heads: Heads | None = None) -> str | None:
        """A cell's source, None if there is no such cell."""
        cells = NotebookSchema.cells_object(reader, heads)
        if cells is None or reader.get(cells, cell_id, heads) is None:
            return None
        cell = _map_at(reader, cells, cell_id, heads)
        return "" if cell is None else read_string(reader, cell, "source", heads) or ""

    @staticmethod
    def read_cell_type(reader: Reader, cell_id: str) -> CellType | None:
        """A cell's type, None if there is no such cell; 4 us."""
        cells = NotebookSchema.cells_object(reader)
        found = None if cells is None else reader.get(cells, cell_id)
        if found is None:
            return None
        return _cell_type(reader, found[1] if found[0] is Kind.MAP else None, None)

    @staticmethod
    def cell_ids(reader: Reader) -> list[str]:
        """The ids of all cells, in no order that means something."""
        cells = NotebookSchema.cells_object(reader)
        return [] if cells is None else reader.keys(cells)

    @staticmethod
    def read_kernel_name(reader: Reader) -> str | None:
        """The kernelspec that the notebook's metadata name; None if they name none."""
        metadata = _map_at(reader, ROOT, "metadata")
        kernelspec = None if metadata is None else _map_at(reader, metadata, "kernelspec")
        return None if kernelspec is None else read_string(reader, kernelspec, "name", longest=_MAX_KERNEL_NAME_CHARS)

    @staticmethod
    def read_metadata(reader: Reader, heads: Heads | None = None) -> dict[str, Any]:
        """The notebook's own metadata."""
        return _read_map(reader, ROOT, "metadata", heads)

    # --- Writing

    @staticmethod
    def create(tx: Transaction, *, runtime_url: str, metadata: Mapping[str, Any]) -> None:
        """Writes the roots into an empty document."""
        tx.put(ROOT, "schema", INT, SCHEMA_VERSION)
        tx.put(ROOT, "runtime", STR, runtime_url)
        tx.put_object(ROOT, "cells", MAP)
        put_value(tx, ROOT, "metadata", metadata)

    @staticmethod
    def set_runtime(tx: Transaction, runtime_url: str) -> None:
        """Names another runtime document."""
        tx.put(ROOT, "runtime", STR, runtime_url)

    @staticmethod
    def add_cell(tx: Transaction, cell: Cell) -> None:
        """Writes a cell as a whole, 8 us a character; `CellsInsertion` does it in slices. It replaces one with its id."""
        insertion = CellsInsertion([cell])
        while not insertion.done:
            insertion.write(tx)

    @staticmethod
    def delete_cell(tx: Transaction, cell_id: str) -> bool:
        """Deletes a cell."""
        cells = NotebookSchema.cells_object(tx)
        if cells is None or tx.get(cells, cell_id) is None:
            return False
        tx.delete(cells, cell_id)
        return True

    @staticmethod
    def source_edit(tx: Reader, cell_id: str, source: str) -> SourceEdit | None:
        """What turns a cell's source into this one, in slices; None if there is no such cell."""
        cells = NotebookSchema.cells_object(tx)
        cell = None if cells is None else _map_at(tx, cells, cell_id)
        if cell is None:
            return None
        found = tx.get(cell, "source")
        text = found[1] if found is not None and found[0] is Kind.TEXT else None
        return SourceEdit(cell, "source", text, "" if text is None else tx.text(text), source)

    @staticmethod
    def edit_source(tx: Transaction, cell_id: str, source: str) -> bool:
        """Turns a cell's source into this one, all at once."""
        edit = NotebookSchema.source_edit(tx, cell_id, source)
        while edit is not None and not edit.done:
            edit.write(tx)
        return edit is not None

    @staticmethod
    def set_position(tx: Transaction, cell_id: str, position: str) -> bool:
        """Moves a cell; also how one with a bad or an equal position is re-keyed."""
        return _set(tx, cell_id, "position", position)

    @staticmethod
    def set_cell_type(tx: Transaction, cell_id: str, cell_type: CellType) -> bool:
        """Makes code of a text or the reverse."""
        return _set(tx, cell_id, "cell_type", cell_type)

    @staticmethod
    def set_attachments(tx: Transaction, cell_id: str, attachments: Mapping[str, Any] | None) -> bool:
        """Gives a cell these attachments (`{name: {mime: value}}`, values encoded), or none."""
        cell = _cell_object(tx, cell_id)
        if cell is None:
            return False
        if attachments:
            _update(tx, cell, "attachments", attachments)
        else:
            tx.delete(cell, "attachments")
        return True

    @staticmethod
    def set_cell_metadata(tx: Transaction, cell_id: str, metadata: Mapping[str, Any]) -> bool:
        """Gives a cell this metadata; keys that do not change are not written."""
        cell = _cell_object(tx, cell_id)
        if cell is not None:
            _update(tx, cell, "metadata", metadata)
        return cell is not None

    @staticmethod
    def set_metadata(tx: Transaction, metadata: Mapping[str, Any]) -> None:
        """Gives the notebook this metadata; keys that do not change are not written."""
        _update(tx, ROOT, "metadata", metadata)

    # --- Roots that belong to the daemon

    @staticmethod
    def restore_roots(reader: Reader, runtime_url: str, cells: ObjId | None) -> "RootsRestoration | None":
        """What undoes a peer's overwrite of `schema`, `runtime` or `cells`; None if all is as it should be.

        Args:
            reader: The replica, which the restoration reads further while it writes.
            runtime_url: What `runtime` must say.
            cells: The map that `cells` must be: what `cells_object` gave when the document was made, loaded or restored.
        """
        found = reader.get(ROOT, "cells")
        has_cells = found is not None and found[0] is Kind.MAP and (cells is None or same_object(found[1], cells))
        has_schema = reader.get(ROOT, "schema") == (SCHEMA_VERSION, b"")
        if has_cells and has_schema and read_string(reader, ROOT, "runtime") == runtime_url:
            return None
        return RootsRestoration(reader, runtime_url, cells, cells_lost=not has_cells)


class CellsInsertion:
    """Writes cells, in slices: call `write` until `done`, each time in a transaction of its own.

    A cell is there as a whole at once but for a long source, which grows. Peers may edit it meanwhile.
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        self.done = False
        self._cells = iter(cells)
        self._edit: SourceEdit | None = None

    def write(self, tx: Transaction, budget: int = SLICE) -> None:
        """Writes about `budget` operations: characters, keys and items (never part of a cell's metadata)."""
        while budget > 0:
            if self._edit is None:
                cell = next(self._cells, None)
                if cell is None:
                    self.done = True
                    return
                budget -= self._begin(tx, cell)
            else:
                budget -= self._edit.write(tx, budget)
                if self._edit.done:
                    self._edit = None

    def _begin(self, tx: Transaction, cell: Cell) -> int:
        cells = NotebookSchema.cells_object(tx)
        if cells is None or not is_key(cell.cell_id):
            return 1
        obj = tx.put_object(cells, cell.cell_id, MAP)
        values: dict[str, Any] = {"cell_type": cell.cell_type, "metadata": cell.metadata}
        if cell.position is not None:
            values["position"] = cell.position
        if cell.attachments:
            values["attachments"] = cell.attachments
        put_map(tx, obj, values)
        self._edit = SourceEdit(obj, "source", None, "", cell.source)
        self._edit.write(tx, 1)
        return 1 + count_operations(values)


class RootsRestoration:
    """Puts the daemon's root keys back. Calling it does so at once; `write` does it in slices, until `done`.

    `schema` and `runtime` are simply written again. A map that was overwritten or deleted can never be seen again, but it
    can still be read by its id, with all that peers did in it: its cells are written into a new map, 8 us a character. What
    peers that have not seen the overwrite yet go on editing in the old map is lost.
    """

    def __init__(self, reader: Reader, runtime_url: str, cells: ObjId | None, *, cells_lost: bool) -> None:
        self._runtime_url = runtime_url
        self._begun = False
        self._cells_lost = cells_lost
        self._insertion = CellsInsertion(_iterate(reader, cells, None) if cells_lost and cells is not None else ())

    @property
    def done(self) -> bool:
        """Whether all is back."""
        return self._insertion.done

    def write(self, tx: Transaction, budget: int = SLICE) -> None:
        """Writes about `budget` operations."""
        if not self._begun:
            self._begun = True
            tx.put(ROOT, "schema", INT, SCHEMA_VERSION)
            tx.put(ROOT, "runtime", STR, self._runtime_url)
            if self._cells_lost:
                tx.put_object(ROOT, "cells", MAP)
        self._insertion.write(tx, budget)

    def __call__(self, tx: Transaction) -> None:
        """Writes all of it."""
        while not self.done:
            self.write(tx)


def _iterate(reader: Reader, cells: ObjId, heads: Heads | None) -> Iterator[Cell]:
    for cell_id in reader.keys(cells, heads):
        found = reader.get(cells, cell_id, heads)
        if found is not None:
            yield _read_cell(reader, cell_id, found, heads)


def _read_cell(reader: Reader, cell_id: str, found: Found, heads: Heads | None) -> Cell:
    if found[0] is not Kind.MAP:
        return Cell(cell_id, _DEFAULT_TYPE, None, "")
    cell = found[1]
    return Cell(
        cell_id,
        _cell_type(reader, cell, heads),
        read_string(reader, cell, "position", heads, longest=MAX_LENGTH),
        read_string(reader, cell, "source", heads) or "",
        _read_map(reader, cell, "metadata", heads),
        _read_map(reader, cell, "attachments", heads) or None,
    )


def _cell_type(reader: Reader, cell: ObjId | None, heads: Heads | None) -> CellType:
    name = None if cell is None else read_string(reader, cell, "cell_type", heads, longest=_MAX_CELL_TYPE_CHARS)
    return cast("CellType", name) if name in get_args(CellType) else _DEFAULT_TYPE


def _map_at(reader: Reader, obj: ObjId, key: str, heads: Heads | None = None) -> ObjId | None:
    found = reader.get(obj, key, heads)
    return found[1] if found is not None and found[0] is Kind.MAP else None


def _read_map(reader: Reader, obj: ObjId, key: str, heads: Heads | None) -> dict[str, Any]:
    found = _map_at(reader, obj, key, heads)
    return {} if found is None else read_plain(reader, found, heads, binary=False)


def _cell_object(tx: Transaction, cell_id: str) -> ObjId | None:
    """The map of a cell to be written; one that is not a map becomes one, with defaults in all keys."""
    cells = NotebookSchema.cells_object(tx)
    found = None if cells is None else tx.get(cells, cell_id)
    if cells is None or found is None:
        return None
    return found[1] if found[0] is Kind.MAP else tx.put_object(cells, cell_id, MAP)


def _set(tx: Transaction, cell_id: str, key: str, value: str) -> bool:
    cell = _cell_object(tx, cell_id)
    if cell is not None:
        tx.put(cell, key, STR, value)
    return cell is not None


def _update(tx: Transaction, obj: ObjId, key: str, values: Mapping[str, Any]) -> None:
    found = _map_at(tx, obj, key)
    if found is None:
        put_value(tx, obj, key, values)
    else:
        update_map(tx, found, values)
