from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.core.positions import (
    DIGITS,
    MAX_LENGTH,
    RANDOM_SPACE,
    PositionsExhausted,
    between,
    is_position,
    random_digits,
    sort_key,
    spread,
)

endings = st.integers(0, RANDOM_SPACE - 1).map(random_digits)
positions = st.text(DIGITS, min_size=1, max_size=MAX_LENGTH).filter(lambda text: not text.endswith("0"))


def source(seed: int) -> Callable[[], str]:
    random = Random(seed)
    return lambda: random_digits(random.randrange(RANDOM_SPACE))


def well_formed(position: str) -> bool:
    return is_position(position) and not position.endswith("0")


@given(st.none() | positions, st.none() | positions, endings)
def test_a_new_position_lies_strictly_between_its_neighbours(left: str | None, right: str | None, ending: str) -> None:
    if left is not None and right is not None:
        if left == right:
            return
        left, right = min(left, right), max(left, right)
    try:
        position = between(left, right, ending)
    except PositionsExhausted:
        assert len(left or "") > 50 or len(right or "") > 50, "only very long neighbours leave no room"
        return
    assert well_formed(position)
    assert left is None or left < position
    assert right is None or position < right


@given(st.lists(st.tuples(st.integers(0, 1_000_000), endings), max_size=120))
def test_cells_stay_where_they_were_put_whatever_the_order_of_inserts(inserts: list[tuple[int, str]]) -> None:
    order: list[str] = []
    for place, ending in inserts:
        index = place % (len(order) + 1)
        left = order[index - 1] if index else None
        right = order[index] if index < len(order) else None
        order.insert(index, between(left, right, ending))
    assert order == sorted(order)
    assert all(map(well_formed, order))


@pytest.mark.parametrize("side", ["append", "prepend", "after the last inserted", "before the last inserted"])
def test_ten_thousand_inserts_on_one_side_of_one_place_stay_short(side: str) -> None:
    next_ending = source(1)
    left: str | None
    right: str | None
    left, right = spread(2, next_ending)
    for _ in range(10_000):
        match side:
            case "append":
                left = between(left, None, next_ending())
            case "prepend":
                right = between(None, right, next_ending())
            case "after the last inserted":
                left = between(left, right, next_ending())
            case _:
                right = between(left, right, next_ending())
    assert len(left) <= 15
    assert len(right) <= 15


def test_inserting_forever_at_changing_sides_of_one_gap_ends_in_an_error_not_in_a_long_key() -> None:
    next_ending = source(2)
    left, right = spread(2, next_ending)

    def insert_forever() -> None:
        nonlocal left, right
        for turn in range(10_000):
            position = between(left, right, next_ending())
            assert len(position) <= MAX_LENGTH
            if turn % 2:
                left = position
            else:
                right = position

    with pytest.raises(PositionsExhausted):
        insert_forever()


def test_equal_or_swapped_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="below"):
        between("V1", "V1", "abc")
    with pytest.raises(ValueError, match="below"):
        between("W1", "V1", "abc")


@pytest.mark.parametrize("ending", ["ab0", "ab", "abcd", "a-c", ""])
def test_an_ending_that_would_break_the_order_is_refused(ending: str) -> None:
    with pytest.raises(ValueError, match="ending"):
        between(None, None, ending)


def test_no_room_between_a_position_and_the_same_with_a_trailing_zero() -> None:
    with pytest.raises(PositionsExhausted):
        between("V", "V0", "abc")


@given(st.integers(0, 300), st.integers(0, 1000))
def test_spread_positions_are_distinct_and_in_order_with_room_around_each(count: int, seed: int) -> None:
    next_ending = source(seed)
    spread_out = spread(count, next_ending)
    assert spread_out == sorted(set(spread_out))
    assert len(spread_out) == count
    assert all(map(well_formed, spread_out))
    for left, right in zip([None, *spread_out], [*spread_out, None], strict=True):
        assert len(between(left, right, next_ending())) <= 9


def test_a_notebook_of_a_hundred_thousand_cells_gets_short_positions() -> None:
    assert max(map(len, spread(100_000, lambda: "abc"))) == 6
    assert max(map(len, spread(200_000, lambda: "abc"))) == 9


def test_cells_without_a_usable_position_come_last_in_order_of_their_ids() -> None:
    usable: list[tuple[object, str]] = [("b", "late"), ("B", "2"), ("B", "1"), ("0z", "0")]
    others: list[tuple[object, str]] = [(None, "z"), (7, "y"), ("", "x"), ("a" * 65, "w"), ("a b", "v")]
    ordered = [cell_id for _, cell_id in sorted(others + usable, key=lambda cell: sort_key(*cell))]
    assert ordered == ["0", "1", "2", "late", "v", "w", "x", "y", "z"]


def test_every_ending_is_three_digits_with_a_last_one_above_zero() -> None:
    assert random_digits(0) == "001"
    assert random_digits(RANDOM_SPACE - 1) == "zzz"
    assert len({random_digits(number) for number in range(RANDOM_SPACE)}) == RANDOM_SPACE
