from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.core.binding import ROOT, Kind, ObjId, ObjType, Replica, ScalarType, same_object
from sync.core.notebook_schema import Cell, CellsInsertion, NotebookSchema
from sync.core.source_edit import changed_span

URL = "automerge:runtime"

# A change by a stock JavaScript client. Cells: hostile, typed, counter, bare, scalar, list, far, emoji, word; see below.
FROM_JAVASCRIPT = bytes.fromhex(
    "856f4a83fcd91d1b01e1060010aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa01010000000a0109023f1130135115e502340c4241"
    "5645577170030001db000000010c00000109010403040405067f070509040a030f021103127f130814061508177f18021b7f"
    "1c071e7f2002217f2a043602447e4d4e044f7f530001045d7f5f07620022020000017f000001020000020700000707000002"
    "7f000002060000027f000002030000017f00000303000008060000177f000009780022015d255b270100017e582b06010006"
    "7e4f3906017a4100c200be7f00c50005017db67f00cd0000017eb37fd00002017dae7fd400ac7f02007fd80002017fa67f00"
    "067e00e3000501690563656c6c73046261726507636f756e74657205656d6f6a690366617207686f7374696c65046c697374"
    "067363616c617205747970656404776f72640963656c6c5f74797065086d6574616461746108706f736974696f6e06736f75"
    "7263650963656c6c5f74797065086d6574616461746108706f736974696f6e06736f757263650b6174746163686d656e7473"
    "0963656c6c5f74797065086d6574616461746108706f736974696f6e06736f757263650001770b6174746163686d656e7473"
    "0963656c6c5f74797065086d6574616461746108706f736974696f6e06736f757263650963656c6c5f74797065086d657461"
    "6461746108706f736974696f6e06736f7572636500087f05612e706e6700087a0362696e05636f756e7403666172046c6973"
    "74046e656172026f6b00167f09696d6167652f706e67000d7a086d65746164617461036269670a6b65726e656c7370656303"
    "6e6567036e696c046e616d6500071701090801080616010d060704007c01000201020004017e040002047c00040001020477"
    "02010402010400040208017f000b017f020d017f040801030403017f0409017d00010002017f04070104007f890102007f14"
    "0200041807007f2603007f1402007f36040006167d46160008167a271889010069020b167f00081603007c14188501000916"
    "7c0054008501020007168080f0968cc1ac0f0701030203563105696d6d726177563061f09f9880626d61726b646f776e0102"
    "038080f0968cc1ac0fae9ea6e5b7337072696e74283129786e6f68656164696e672101010000000000000440563261624141"
    "414174b5b8f0fe2d000000000000f0bf707974686f6e33e90000"
)


def new_document(*cells: Cell, metadata: Mapping[str, Any] | None = None) -> Replica:
    replica = Replica()
    with replica.transaction() as tx:
        NotebookSchema.create(tx, runtime_url=URL, metadata=metadata or {})
        for cell in cells:
            NotebookSchema.add_cell(tx, cell)
    return replica


def twin(replica: Replica) -> Replica:
    """Another peer's replica."""
    return Replica.load(replica.save())


def exchange(one: Replica, other: Replica) -> None:
    ours, theirs = ([change.bytes for change in replica.changes_since(())] for replica in (one, other))
    one.apply(theirs)
    other.apply(ours)


def cell_types(replica: Replica) -> dict[str, str | None]:
    return {cell_id: NotebookSchema.read_cell_type(replica, cell_id) for cell_id in NotebookSchema.cell_ids(replica)}


def cells_of(replica: Replica) -> ObjId:
    cells = NotebookSchema.cells_object(replica)
    assert cells is not None
    return cells


def source_object(replica: Replica, cell_id: str) -> ObjId:
    cell = replica.get(cells_of(replica), cell_id)
    assert cell is not None
    source = replica.get(cell[1], "source")
    assert source is not None
    return source[1]


def code(cell_id: str, source: str = "", position: str | None = "V") -> Cell:
    return Cell(cell_id, "code", position, source)


FULL = Cell(
    "full",
    "markdown",
    "Vabc",
    "# é😀\n",
    {"tags": ["a"], "jupyter": {"source_hidden": True}, "n": None, "x": 1.5},
    {"a.png": {"image/png": {"blob": "0" * 64, "size": 3, "media_type": "image/png"}, "text/plain": "alt"}},
)


def test_a_cell_reads_as_it_was_written() -> None:
    replica = new_document(FULL, metadata={"kernelspec": {"name": "python3"}})

    assert NotebookSchema.read_cells(replica) == [FULL]
    assert NotebookSchema.read_cell(replica, "full") == FULL
    assert NotebookSchema.read_source(replica, "full") == FULL.source
    assert cell_types(replica) == {"full": "markdown"}
    assert NotebookSchema.read_metadata(replica) == {"kernelspec": {"name": "python3"}}
    assert NotebookSchema.read_kernel_name(replica) == "python3"


def test_the_source_is_a_text_and_all_other_strings_are_registers() -> None:
    replica = new_document(FULL)
    cell = replica.get(cells_of(replica), "full")
    assert cell is not None
    kinds = {key: replica.get(cell[1], key) for key in replica.keys(cell[1])}

    assert kinds["source"] == (Kind.TEXT, source_object(replica, "full"))
    assert kinds["cell_type"] == ("markdown", b"")
    assert kinds["position"] == ("Vabc", b"")


def test_cells_are_in_order_of_position_then_id_and_those_without_one_are_last() -> None:
    cells = [code("e", position=None), code("b", position="W"), code("a", position="W"), code("c", position="V9")]
    replica = new_document(*cells, code("d", position="x" * 65))

    assert [cell.cell_id for cell in NotebookSchema.read_cells(replica)] == ["c", "a", "b", "d", "e"]


def test_whatever_javascript_wrote_reads_as_a_cell() -> None:
    replica = Replica()
    replica.apply([FROM_JAVASCRIPT])

    assert NotebookSchema.read_cells(replica) == [
        Cell("emoji", "raw", "V0", "a😀b"),
        Cell(
            "hostile",
            "markdown",
            "V1",
            "print(1)",
            # Without its Counters, bytes and a date in the year 275760.
            {"list": [1, 2.5, "t"], "near": "2026-01-02T03:04:05.678Z", "ok": True},
            {"a.png": {"image/png": "AAAA"}},
        ),
        Cell("bare", "code", None, ""),
        Cell("counter", "code", None, ""),
        Cell("far", "code", None, ""),
        Cell("list", "code", None, ""),
        Cell("scalar", "code", None, ""),
        Cell("typed", "code", None, "imm"),
        Cell("word", "code", "!", ""),
    ]
    assert cell_types(replica) == {cell.cell_id: cell.cell_type for cell in NotebookSchema.read_cells(replica)}
    assert NotebookSchema.read_source(replica, "emoji") == "a😀b"
    assert NotebookSchema.read_source(replica, "typed") == "imm"
    assert NotebookSchema.read_source(replica, "scalar") == ""
    expected = {"kernelspec": {"name": "python3"}, "big": 12345678901, "neg": -1, "nil": None}
    assert NotebookSchema.read_metadata(replica) == expected


def test_every_cell_that_javascript_wrote_can_be_written() -> None:
    replica = Replica()
    replica.apply([FROM_JAVASCRIPT])
    cells = NotebookSchema.read_cells(replica)
    with replica.transaction() as tx:
        for cell in cells:
            assert NotebookSchema.edit_source(tx, cell.cell_id, "new") == (cell.cell_id not in NO_MAPS)
            assert NotebookSchema.set_position(tx, cell.cell_id, "V")
            assert NotebookSchema.set_cell_type(tx, cell.cell_id, "raw")
            assert NotebookSchema.set_cell_metadata(tx, cell.cell_id, {"a": [1]})
            assert NotebookSchema.set_attachments(tx, cell.cell_id, None)
            assert NotebookSchema.edit_source(tx, cell.cell_id, "new")

    after = NotebookSchema.read_cells(replica)
    assert after == [Cell(cell_id, "raw", "V", "new", {"a": [1]}) for cell_id in sorted(cell.cell_id for cell in cells)]


NO_MAPS = {"scalar", "list", "far"}


@pytest.mark.parametrize("cells", [None, 1, "text"])
def test_a_document_without_a_map_of_cells_has_no_cells(cells: object) -> None:
    replica = Replica()
    if cells is not None:
        with replica.transaction() as tx:
            tx.put(ROOT, "cells", ScalarType.Int if isinstance(cells, int) else ScalarType.Str, cells)

    assert NotebookSchema.read_cells(replica) == []
    assert NotebookSchema.read_cell(replica, "a") is None
    assert NotebookSchema.read_source(replica, "a") is None
    assert NotebookSchema.read_cell_type(replica, "a") is None
    assert cell_types(replica) == {}
    with replica.transaction() as tx:
        assert not NotebookSchema.delete_cell(tx, "a")
        assert not NotebookSchema.set_position(tx, "a", "V")
        assert not NotebookSchema.edit_source(tx, "a", "")


def test_a_cell_is_read_at_the_heads_that_a_request_names() -> None:
    replica = new_document(code("a", "1 + 1"))
    heads = replica.heads()
    with replica.transaction() as tx:
        NotebookSchema.edit_source(tx, "a", "1 + 2")
        NotebookSchema.add_cell(tx, code("b"))

    assert NotebookSchema.read_source(replica, "a", heads) == "1 + 1"
    assert NotebookSchema.read_cells(replica, heads) == [code("a", "1 + 1")]
    assert NotebookSchema.read_cell(replica, "b", heads) is None


def test_another_runtime_document_can_be_named() -> None:
    replica = new_document()
    with replica.transaction() as tx:
        NotebookSchema.set_runtime(tx, "automerge:next")

    assert replica.get(ROOT, "runtime") == ("automerge:next", b"")
    assert NotebookSchema.restore_roots(replica, "automerge:next", cells_of(replica)) is None


def test_attachments_can_be_changed() -> None:
    replica = new_document(code("a"))
    with replica.transaction() as tx:
        NotebookSchema.set_attachments(tx, "a", {"a.txt": {"text/plain": "x"}})
        NotebookSchema.set_attachments(tx, "a", {"b.txt": {"text/plain": "y"}})

    cell = NotebookSchema.read_cell(replica, "a")
    assert cell is not None
    assert cell.attachments == {"b.txt": {"text/plain": "y"}}


def test_a_cell_with_an_id_that_no_document_takes_is_left_out() -> None:
    assert NotebookSchema.read_cells(new_document(code(""), code("a"))) == [code("a")]


def test_a_deleted_cell_takes_no_edits() -> None:
    replica = new_document(FULL)
    with replica.transaction() as tx:
        assert NotebookSchema.delete_cell(tx, "full")

        assert not NotebookSchema.delete_cell(tx, "full")
        assert not NotebookSchema.edit_source(tx, "full", "x")
        assert not NotebookSchema.set_cell_metadata(tx, "full", {})
        assert not NotebookSchema.set_attachments(tx, "full", {})
    assert NotebookSchema.read_cells(replica) == []


# --- Sources

texts = st.text(alphabet="ab\n😀é", max_size=12)


@given(texts, texts)
def test_what_changed_is_between_what_did_not(old: str, new: str) -> None:
    start, deleted, inserted = changed_span(old, new)

    assert old[:start] + inserted + old[start + deleted :] == new
    assert len(inserted) <= len(new)
    assert not inserted or not deleted or inserted[0] != old[start]


@given(texts, texts, texts, st.integers(1, 3), st.booleans())
def test_an_edit_in_slices_keeps_what_others_write_around_it(
    old: str, new: str, theirs: str, budget: int, at_end: bool
) -> None:
    replica = new_document(code("a", old))
    peer = twin(replica)
    edit = NotebookSchema.source_edit(replica, "a", new)
    assert edit is not None
    with replica.transaction() as tx:
        edit.write(tx, budget)
    exchange(replica, peer)
    now = NotebookSchema.read_source(peer, "a") or ""
    theirs = f"<{theirs}>"
    with peer.transaction() as tx:
        NotebookSchema.edit_source(tx, "a", now + theirs if at_end else theirs + now)
    exchange(replica, peer)
    while not edit.done:
        with replica.transaction() as tx:
            edit.write(tx, budget)
    exchange(replica, peer)

    source = NotebookSchema.read_source(replica, "a") or ""
    assert source == NotebookSchema.read_source(peer, "a")
    assert source.replace(theirs, "", 1) == new


def test_an_edit_merges_with_the_edit_of_another_peer() -> None:
    replica = new_document(code("a", "x = 1\ny = 2\n"))
    peer = twin(replica)
    with replica.transaction() as tx:
        NotebookSchema.edit_source(tx, "a", "x = 10\ny = 2\n")
    with peer.transaction() as tx:
        NotebookSchema.edit_source(tx, "a", "x = 1\ny = 25\n")
    exchange(replica, peer)

    assert NotebookSchema.read_source(replica, "a") == "x = 10\ny = 25\n"


def test_an_edit_that_changes_nothing_writes_nothing() -> None:
    replica = new_document(code("a", "x"))
    heads = replica.heads()
    with replica.transaction() as tx:
        assert NotebookSchema.edit_source(tx, "a", "x")

    assert replica.heads() == heads


@pytest.mark.parametrize("new", ["", "hello", "he_llo world", "hello worl", "h", "hello world!", "Hello world"])
def test_a_run_of_characters_in_one_operation_is_edited_too(new: str) -> None:
    replica = new_document(code("a"))
    with replica.transaction() as tx:
        tx.insert(source_object(replica, "a"), 0, ScalarType.Str, "hello world")  # what a careless peer writes
    with replica.transaction() as tx:
        NotebookSchema.edit_source(tx, "a", new)

    assert NotebookSchema.read_source(replica, "a") == new


def test_a_source_that_is_no_text_becomes_one() -> None:
    replica = Replica()
    replica.apply([FROM_JAVASCRIPT])
    with replica.transaction() as tx:
        NotebookSchema.edit_source(tx, "typed", "imm!")

    assert replica.text(source_object(replica, "typed")) == "imm!"


def test_a_source_has_no_lone_surrogates() -> None:
    replica = new_document(code("a", "x\ud800y"))

    assert NotebookSchema.read_source(replica, "a") == "x\ufffdy"


# --- Slices


def test_cells_are_written_in_slices() -> None:
    cells = [code(f"c{number}", "x" * 950, f"V{number}1") for number in range(5)]
    replica = new_document()
    insertion = CellsInsertion(cells)
    slices = 0
    while not insertion.done:
        before = replica.heads()
        with replica.transaction() as tx:
            insertion.write(tx, budget=400)
        for change in replica.changes_since(before):
            slices += 1
            assert change.max_op - change.start_op < 400 + 10

    assert NotebookSchema.read_cells(replica) == cells
    assert slices == 12


def test_peers_may_edit_a_cell_while_it_is_written() -> None:
    replica = new_document()
    insertion = CellsInsertion([code("a", "0123456789")])
    with replica.transaction() as tx:
        insertion.write(tx, budget=10)
    peer = twin(replica)
    with peer.transaction() as tx:
        NotebookSchema.edit_source(tx, "a", "#" + (NotebookSchema.read_source(peer, "a") or ""))
    exchange(replica, peer)
    while not insertion.done:
        with replica.transaction() as tx:
            insertion.write(tx, budget=2)

    assert NotebookSchema.read_source(replica, "a") == "#0123456789"


def test_a_cell_deleted_while_it_is_written_stays_deleted() -> None:
    replica = new_document()
    insertion = CellsInsertion([code("a", "0123456789"), code("b", "x")])
    with replica.transaction() as tx:
        insertion.write(tx, budget=8)
    with replica.transaction() as tx:
        NotebookSchema.delete_cell(tx, "a")
    while not insertion.done:
        with replica.transaction() as tx:
            insertion.write(tx)

    assert NotebookSchema.read_cells(replica) == [code("b", "x")]


# --- Metadata

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abé", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)
maps = st.dictionaries(st.sampled_from("abc"), json_values, max_size=3)


@given(maps, maps)
def test_metadata_become_what_they_are_set_to(old: dict[str, Any], new: dict[str, Any]) -> None:
    replica = new_document(Cell("a", "code", "V", "", old), metadata=old)
    with replica.transaction() as tx:
        NotebookSchema.set_metadata(tx, new)
        NotebookSchema.set_cell_metadata(tx, "a", new)

    cell = NotebookSchema.read_cell(replica, "a")
    assert cell is not None
    assert NotebookSchema.read_metadata(replica) == cell.metadata == new
    heads = replica.heads()
    with replica.transaction() as tx:
        NotebookSchema.set_metadata(tx, new)
    assert replica.heads() == heads


def test_metadata_that_two_peers_set_are_merged() -> None:
    replica = new_document(metadata={"kernelspec": {"name": "a", "language": "b"}, "toc": [1]})
    peer = twin(replica)
    with replica.transaction() as tx:
        NotebookSchema.set_metadata(tx, {"kernelspec": {"name": "A", "language": "b"}, "toc": [1]})
    with peer.transaction() as tx:
        NotebookSchema.set_metadata(tx, {"kernelspec": {"name": "a", "language": "B"}})
    exchange(replica, peer)

    assert NotebookSchema.read_metadata(replica) == {"kernelspec": {"name": "A", "language": "B"}}


def test_values_that_are_not_shown_are_not_deleted() -> None:
    replica = Replica()
    replica.apply([FROM_JAVASCRIPT])
    cell = NotebookSchema.read_cell(replica, "hostile")
    assert cell is not None
    with replica.transaction() as tx:
        NotebookSchema.set_cell_metadata(tx, "hostile", {**cell.metadata, "ok": False})

    found = replica.get(cells_of(replica), "hostile")
    assert found is not None
    metadata = replica.get(found[1], "metadata")
    assert metadata is not None
    assert replica.keys(metadata[1]) == ["bin", "count", "far", "list", "near", "ok"]


# --- Roots


def overwrite(replica: Replica, key: str, value: str | None = None) -> None:
    """What a peer does to a root key: another value, or an object with a cell of its own."""
    with replica.transaction() as tx:
        if value is not None:
            tx.put(ROOT, key, ScalarType.Str, value)
            return
        obj = tx.put_object(ROOT, key, ObjType.Map)
        tx.put(obj, "evil", ScalarType.Int, 1)


@pytest.mark.parametrize("key", ["schema", "runtime"])
@pytest.mark.parametrize("value", ["other", None])
def test_an_overwritten_root_is_restored(key: str, value: str | None) -> None:
    replica = new_document(FULL)
    cells = cells_of(replica)
    overwrite(replica, key, value)

    restoration = NotebookSchema.restore_roots(replica, URL, cells)
    assert restoration is not None
    with replica.transaction() as tx:
        restoration(tx)

    assert replica.get(ROOT, "schema") == (1, b"")
    assert replica.get(ROOT, "runtime") == (URL, b"")
    assert NotebookSchema.restore_roots(replica, URL, cells) is None


def test_roots_that_are_right_need_nothing() -> None:
    replica = new_document(FULL)
    peer = Replica.load(replica.save())
    with peer.transaction() as tx:
        tx.put(ROOT, "mine", ScalarType.Int, 1)
    exchange(replica, peer)

    assert NotebookSchema.restore_roots(replica, URL, cells_of(replica)) is None
    assert NotebookSchema.restore_roots(peer, URL, cells_of(replica)) is None


@pytest.mark.parametrize("how", ["map", "scalar", "deleted", "concurrent"])
def test_overwritten_cells_come_back_with_what_peers_wrote_in_them(how: str) -> None:
    replica = new_document(FULL, code("a", "x = 1", "W"))
    cells = cells_of(replica)
    peer = twin(replica)
    evil = twin(replica)
    if how == "concurrent":
        evil = Replica()
        for number in range(100):  # its operations count higher than ours, so it wins
            overwrite(evil, "cells", str(number))
    if how == "deleted":
        with evil.transaction() as tx:
            tx.delete(ROOT, "cells")
    else:
        overwrite(evil, "cells", "gone" if how == "scalar" else None)
    with peer.transaction() as tx:
        NotebookSchema.edit_source(tx, "a", "x = 12")
    exchange(replica, evil)
    exchange(replica, peer)
    assert code("a", "x = 12", "W") not in NotebookSchema.read_cells(replica)

    restoration = NotebookSchema.restore_roots(replica, URL, cells)
    assert restoration is not None
    while not restoration.done:
        with replica.transaction() as tx:
            restoration.write(tx, budget=3)

    assert NotebookSchema.read_cells(replica) == [FULL, code("a", "x = 12", "W")]
    assert NotebookSchema.restore_roots(replica, URL, cells) is not None  # it is another map now
    assert NotebookSchema.restore_roots(replica, URL, cells_of(replica)) is None
    exchange(replica, evil)
    assert NotebookSchema.read_cells(evil) == NotebookSchema.read_cells(replica)


def test_an_object_is_the_same_in_every_replica() -> None:
    replica = new_document()
    with replica.transaction() as tx:
        other = tx.put_object(ROOT, "other", ObjType.Map)
    peer = Replica(b"\x00")  # sorts before every other author
    peer.apply([change.bytes for change in replica.changes_since(())])
    with peer.transaction() as tx:
        tx.put(ROOT, "x", ScalarType.Int, 1)
    loaded = Replica.load(peer.save())

    assert same_object(cells_of(replica), cells_of(loaded))
    assert not same_object(other, cells_of(loaded))
