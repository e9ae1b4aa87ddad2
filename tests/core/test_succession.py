"""A runtime document's successor: it has all that the old one has, whatever was committed while it was made."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sync.core.document import Document
from sync.core.identifiers import document_id
from sync.core.mutations import AddCell, ClearOutputs, OpenComm, SetCommState
from sync.core.prepared import AppendManifest, PreparedMutation
from sync.core.runtime_reading import read_runtime
from sync.core.runtime_schema import ROTATE_AFTER, RuntimeSchema
from sync.core.succession import Succession, name_successor
from tests.core.test_runtime_schema import CELL, Model, display, mutations, stream, without_gap

START = [AddCell("c1"), OpenComm("k1", "t", "m", "OutputModel", 1, {}), AppendManifest(CELL, stream("o1", "a"))]


class Replaced:
    """A runtime document with its writer's schema, and on the way to it the successor, as the doc-writer has them."""

    def __init__(self, rotate_after: int = ROTATE_AFTER) -> None:
        self.document = Document(document_id(b"r" * 16))
        self.schema = RuntimeSchema(rotate_after)
        self.document.commit(
            lambda tx: self.schema.create(tx, notebook_url="automerge:x", path="a.ipynb", kernel_name="python3")
        )
        self.succession: Succession | None = None
        self.model = Model()
        self.commit(*START)

    def commit(self, *batch: PreparedMutation) -> None:
        meant = []
        for mutation in batch:
            meant.append(without_gap(self.model, mutation))
            self.model.apply(meant[-1])
        self.document.commit(lambda tx: self.schema.apply(tx, meant))
        if self.succession is not None:
            self.succession.follow(meant)

    def begin(self) -> Succession:
        self.succession = Succession(self.document, b"s" * 16, notebook_url="automerge:x")
        return self.succession

    @property
    def content(self) -> dict[str, Any]:
        return read_runtime(self.document.replica)


def slice_of(size: int) -> Any:
    """Goes on for so many mutations."""
    left = iter(range(size - 1))
    return lambda: next(left, None) is not None


batches = st.lists(st.lists(mutations, max_size=6), max_size=6)


@given(batches, st.lists(st.one_of(st.lists(mutations, max_size=6), st.integers(1, 8)), max_size=16), batches)
def test_it_has_all_that_was_committed_before_during_and_after(
    before: list[list[PreparedMutation]],
    during: list[list[PreparedMutation] | int],
    after: list[list[PreparedMutation]],
) -> None:
    replaced = Replaced(rotate_after=3)
    for batch in before:
        replaced.commit(*batch)
    succession = replaced.begin()
    for step in during:
        if isinstance(step, int):
            succession.catch_up(slice_of(step))
        else:
            replaced.commit(*step)
    succession.catch_up()

    assert not succession.behind
    assert read_runtime(succession.document.replica) == replaced.content == replaced.model.content

    replaced.document, replaced.schema, replaced.succession = succession.document, succession.schema, None
    for batch in after:
        replaced.commit(*batch)
        assert replaced.content == replaced.model.content


def test_it_has_no_history_and_the_old_document_names_it() -> None:
    replaced = Replaced()
    for number in range(500):
        replaced.commit(SetCommState("k1", {"value": number}))
        replaced.commit(ClearOutputs(CELL), AppendManifest(CELL, display(str(number))))
    succession = replaced.begin()
    succession.catch_up()
    name = succession.document.url
    replaced.document.commit(lambda tx: name_successor(tx, name))

    assert read_runtime(succession.document.replica) == replaced.model.content
    assert replaced.content == replaced.model.content | {"successor": name}
    assert replaced.document.operations > 3_000
    assert succession.document.operations < 150


def test_a_slice_writes_as_long_as_it_may_and_once_at_least() -> None:
    replaced = Replaced()
    replaced.commit(*(AddCell(f"cell{number}") for number in range(20)))
    succession = replaced.begin()
    slices = 0
    while succession.behind:
        succession.catch_up(lambda: False)
        slices += 1

    assert slices > 40
    assert len(succession.document.log) > 20
    assert read_runtime(succession.document.replica) == replaced.content
