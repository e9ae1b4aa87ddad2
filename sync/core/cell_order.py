"""Where a cell goes among the others: its position, and which neighbours have to be re-keyed for it."""

from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from sync.core.binding import Kind, Reader
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
        found = reader.get(cells, cell_id)
        position = None
        if found is not None and found[0] is Kind.MAP:
            position = read_string(reader, found[1], "position", longest=MAX_LENGTH)
        placed.append(Placed(cell_id, position if is_position(position) else None))
    placed.sort(key=_key)
    return placed


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


def _key(cell: Placed) -> tuple[bool, str, str]:
    return sort_key(cell.position, cell.cell_id)


def _is_not_above(cell: Placed, left: str | None) -> bool:
    """Whether a cell is at the same position as the one on the left; those without one are above all."""
    return cell.position is not None and left is not None and cell.position <= left
