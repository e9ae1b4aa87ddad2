"""A cell that is put somewhere is there, whatever positions the others have."""

import random

from hypothesis import given
from hypothesis import strategies as st

from sync.core.binding import ROOT, ObjType, Replica, ScalarType
from sync.core.cell_order import Placed, append, is_placed, place, read_order
from sync.core.positions import RANDOM_SPACE, is_position, random_digits, sort_key

RANDOM = random.Random(0)

positions = st.one_of(
    st.none(),
    st.sampled_from(["V", "V0", "V00", "W", "z" * 64, "1"]),
    st.text("0123456789ABCxyz", min_size=1, max_size=4),
)


def digits() -> str:
    return random_digits(RANDOM.randrange(RANDOM_SPACE))


def sort(cells: list[Placed]) -> list[Placed]:
    return sorted(cells, key=lambda cell: sort_key(cell.position, cell.cell_id))


@given(st.lists(positions, max_size=8), st.integers(0, 8))
def test_a_placed_cell_is_where_it_should_be_and_the_others_keep_their_order(
    taken: list[str | None], index: int
) -> None:
    order = sort([Placed(f"c{number}", position) for number, position in enumerate(taken)])
    index = min(index, len(order))

    position, moved = place(order, index, digits)

    after = sort([*(Placed(c.cell_id, dict(moved).get(c.cell_id, c.position)) for c in order), Placed("new", position)])
    assert [cell.cell_id for cell in after] == [
        *(cell.cell_id for cell in order[:index]),
        "new",
        *(cell.cell_id for cell in order[index:]),
    ]


def test_a_cell_between_two_usual_neighbours_moves_nobody() -> None:
    order = [Placed("a", "1aB"), Placed("b", "1cD"), Placed("c", "2xy")]

    assert [place(order, index, digits)[1] for index in range(4)] == [[], [], [], []]


def test_order_is_read_whatever_stands_in_the_document() -> None:
    replica = Replica()
    with replica.transaction() as tx:
        cells = tx.put_object(ROOT, "cells", ObjType.Map)
        for cell_id, position in {"a": "z", "b": "A", "c": "not one!"}.items():
            tx.put(tx.put_object(cells, cell_id, ObjType.Map), "position", ScalarType.Str, position)
        tx.put(cells, "d", ScalarType.Int, 1)

    assert read_order(replica) == [Placed("b", "A"), Placed("a", "z"), Placed("c", None), Placed("d", None)]
    assert read_order(Replica()) == []


@given(st.lists(positions, max_size=8))
def test_cells_without_a_position_get_one_where_they_are_shown(taken: list[str | None]) -> None:
    order = sort([Placed(f"c{number}", position) for number, position in enumerate(taken)])
    ill = [cell.cell_id for cell in order if cell.position is None]
    left = next((cell.position for cell in reversed(order) if cell.position is not None), None)
    moved = dict(append(left, ill, digits))

    after = sort([Placed(cell.cell_id, moved.get(cell.cell_id, cell.position)) for cell in order])
    assert [cell.cell_id for cell in after] == [cell.cell_id for cell in order]
    assert list(moved) == ([] if left == "z" * 64 else ill)
    assert all(is_position(position) for position in moved.values())


def test_which_cells_have_a_position() -> None:
    replica = Replica()
    with replica.transaction() as tx:
        cells = tx.put_object(ROOT, "cells", ObjType.Map)
        for cell_id, position in {"good": "V1", "long": "1" * 65, "empty": "", "odd": "é1"}.items():
            tx.put(tx.put_object(cells, cell_id, ObjType.Map), "position", ScalarType.Str, position)
        tx.put(tx.put_object(cells, "number", ObjType.Map), "position", ScalarType.Int, 1)
        tx.put_object(cells, "missing", ObjType.Map)
        tx.put(cells, "text", ScalarType.Str, "V1")
    placed = {cell.cell_id: is_placed(replica, cell.cell_id) for cell in read_order(replica)}
    assert [cell_id for cell_id, is_so in placed.items() if is_so] == ["good", "text"]
    assert len(placed) == 7
    assert is_placed(replica, "nobody"), "nothing can be done for it"
