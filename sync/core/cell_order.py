"""Where a cell goes among the others: its position, and which neighbours have to be re-keyed for it."""

from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from sync.core.binding import Found, Kind, Reader
from sync.core.notebook_schema import NotebookSchema
from sync.core.plain import read_string
from sync.core.positions import MAX_LENGTH, PositionsExhausted, between, is_position, sort_key, spread


class Placed(NamedTuple):
    """A cell and its position; None where it has none that is well formed."""

    cell_id: str
    position: str | None


def read_order(reader: Reader) -> list[Placed]:
    """All cells in order; 4 us a cell, where reading them with their sources takes 35."""
    cells = NotebookSchema.cells_object(reader)
    placed = []
    for cell_id in [] if cells is None else reader.keys(cells):
        assert cells is not None
        placed.append(Placed(cell_id, _position(reader, reader.get(cells, cell_id))))
    placed.sort(key=_key)
    return placed


def is_placed(reader: Reader, cell_id: str) -> bool:
    """Whether the cell has a position that is well formed; so has what is no cell at all, in which none can be written."""
    cells = NotebookSchema.cells_object(reader)
    found = None if cells is None else reader.get(cells, cell_id)
    return found is None or found[0] is not Kind.MAP or _position(reader, found) is not None


def with_places(order: Sequence[Placed], places: Mapping[str, str]) -> list[Placed]:
    """The order with some cells at these positions, which need not have been in it."""
    changed = [cell for cell in order if cell.cell_id not in places]
    for cell_id, position in places.items():
        insort(changed, Placed(cell_id, position), key=_key)
    return changed


def place(order: Sequence[Placed], index: int, random_source: Callable[[], str]) -> tuple[str, list[tuple[str, str]]]:
    """A position for one more cell, so that it comes at `index`.

    Args:
        order: The other cells, in order.
        index: 0 for the beginning, `len(order)` for the end.
        random_source: Gives three random base-62 digits, the last one not 0, at each call.

    Returns:
        The position, and (cell_id, position) of the cells that must move for it to be right: those without a position
        before the place, and those behind it that have the same one as the cell before it. Few or none; all of them
        where there is no room any more.
    """
    moved: list[tuple[str, str]] = []
    try:
        left: str | None = None
        for cell in order[:index]:
            if cell.position is None:
                left = between(left, None, random_source())
                moved.append((cell.cell_id, left))
            else:
                left = cell.position
        end = index
        while end < len(order) and _is_not_above(order[end], left):
            end += 1
        right = order[end].position if end < len(order) else None
        position = left = between(left, right, random_source())
        for cell in order[index:end]:
            left = between(left, right, random_source())
            moved.append((cell.cell_id, left))
    except PositionsExhausted:
        positions = spread(len(order) + 1, random_source)
        position = positions.pop(index)
        moved = [(cell.cell_id, fresh) for cell, fresh in zip(order, positions, strict=True)]
    return position, moved


def append(left: str | None, cells: Sequence[str], random_source: Callable[[], str]) -> list[tuple[str, str]]:
    """Positions behind the last one, `left` (None: there is none), for cells in their order: (cell_id, position) of each.

    Of the first ones only where there is no room for more.
    """
    moved: list[tuple[str, str]] = []
    try:
        for cell_id in cells:
            left = between(left, None, random_source())
            moved.append((cell_id, left))
    except PositionsExhausted:
        pass
    return moved


def _position(reader: Reader, found: Found | None) -> str | None:
    """Of what stands under the cell's id."""
    if found is None or found[0] is not Kind.MAP:
        return None
    position = read_string(reader, found[1], "position", longest=MAX_LENGTH)
    return position if is_position(position) else None


def _key(cell: Placed) -> tuple[bool, str, str]:
    return sort_key(cell.position, cell.cell_id)


def _is_not_above(cell: Placed, left: str | None) -> bool:
    """Whether a cell is at the same position as the one on the left; those without one are above all."""
    return cell.position is not None and left is not None and cell.position <= left
