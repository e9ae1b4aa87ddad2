"""The log of a document's changes against the plain meaning of what it says, over random histories."""

from hypothesis import given
from hypothesis import strategies as st

from sync.core.change_log import ChangeLog, LoggedChange, builds_on


def history(data: st.DataObject) -> list[tuple[int, ...]]:
    """Which earlier changes each one builds on; often none or an old one, so that branches stay apart."""
    count = data.draw(st.integers(0, 90))
    deps: list[tuple[int, ...]] = []
    for index in range(count):
        behind = st.lists(st.integers(max(0, index - 40), index - 1), max_size=3, unique=True) if index else st.just([])
        deps.append(tuple(data.draw(behind)))
    return deps


def name(index: int) -> bytes:
    return index.to_bytes(2, "big") * 16


def logged(deps: list[tuple[int, ...]]) -> ChangeLog:
    log = ChangeLog()
    for index, behind in enumerate(deps):
        log.append(LoggedChange(name(index), tuple(sorted(map(name, behind))), b"", index, None))
    return log


def behind(deps: list[tuple[int, ...]], indexes: set[int]) -> set[int]:
    found: set[int] = set()
    left = list(indexes)
    while left:
        index = left.pop()
        if index not in found:
            found.add(index)
            left += deps[index]
    return found


@given(st.data())
def test_heads_are_those_that_nothing_before_builds_on(data: st.DataObject) -> None:
    deps = history(data)
    log = logged(deps)
    for position in range(len(deps) + 1):
        built_on = {one for behind in deps[:position] for one in behind}
        assert log.heads(position) == tuple(name(index) for index in range(position) if index not in built_on)
    assert log.heads() == log.heads(len(deps))


@given(st.data())
def test_what_is_covered_is_behind_and_of_a_line_it_is_all(data: st.DataObject) -> None:
    deps = history(data)
    log = logged(deps)
    some = set(data.draw(st.lists(st.integers(0, max(0, len(deps) - 1)), max_size=5))) if deps else set()
    covered = log.covered_by(map(name, some))
    assert set(range(covered)) <= behind(deps, some)
    assert log.ancestors(map(name, some), covered) == {i for i in behind(deps, some) if i >= covered}
    assert log.covered_by(log.heads()) == len(deps)
    assert log.covered_by([b"unknown"]) == 0

    line = logged([(index - 1,) if index else () for index in range(len(deps))])
    assert line.covered_by(map(name, some)) == max(some, default=-1) + 1


@given(st.data())
def test_a_change_builds_on_whatever_is_behind_it(data: st.DataObject) -> None:
    deps = history(data)
    cut = data.draw(st.integers(0, len(deps)))
    log = logged(deps[:cut])
    further = [LoggedChange(name(i), tuple(map(name, deps[i])), b"", i, None) for i in range(cut, len(deps))]
    if deps:
        index, wanted = data.draw(st.integers(0, len(deps) - 1)), data.draw(st.integers(0, len(deps) - 1))
        expected = wanted in behind(deps, set(deps[index]))
        assert builds_on(log, further, tuple(map(name, deps[index])), name(wanted)) == expected


def test_who_comes_back_after_very_many_changes_is_not_looked_for_one_by_one() -> None:
    log = logged([(index - 1,) if index else () for index in range(60_000)])
    found: list[int] = []
    log.ancestors = lambda *args: found.append(1) or set()  # type: ignore[method-assign, func-returns-value]
    assert builds_on(log, [], (name(59_999),), name(0))
    assert not found


def test_many_heads_are_not_kept_for_each_position() -> None:
    """A thousand, by somebody who keeps them apart, took 8 KB for each change."""
    log = logged([()] * 1000)
    assert sum(len(heads) for heads in log._heads if heads is not None) < 10_000
    assert len(log.heads(999)) == 999
