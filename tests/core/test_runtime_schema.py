from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.core.binding import ROOT, Replica, Transaction
from sync.core.mutations import (
    KERNEL_LOG,
    UNSET,
    AddCell,
    AddExecution,
    ClearOutputs,
    CloseComm,
    OpenComm,
    RemoveCell,
    RemoveExecution,
    SetCell,
    SetCommState,
    SetEnvironment,
    SetExecution,
    SetFile,
    SetKernel,
    SetQueue,
    Target,
    TrimOutputs,
)
from sync.core.prepared import AppendManifest, EditSegments, PreparedMutation, ReplaceManifest
from sync.core.runtime_reading import SEGMENTS_AT_ONCE, copy_runtime, entry_ids, read_cell, read_comm, read_runtime
from sync.core.runtime_schema import ROTATE_AFTER, RuntimeSchema, list_difference

CELL = Target("cell", "c1")
COMM = Target("comm", "k1")


def new_document(rotate_after: int = ROTATE_AFTER) -> tuple[Replica, RuntimeSchema]:
    replica, schema = Replica(), RuntimeSchema(rotate_after)
    with replica.transaction() as tx:
        schema.create(tx, notebook_url="automerge:x", path="a.ipynb", kernel_name="python3")
    return replica, schema


def commit(replica: Replica, schema: RuntimeSchema, *mutations: PreparedMutation) -> int:
    with replica.transaction() as tx:
        return schema.apply(tx, mutations)


def display(output_id: str, text: str = "x") -> dict[str, Any]:
    return {"output_type": "display_data", "output_id": output_id, "data": {"text/plain": text}}


def stream(output_id: str, *segments: str) -> dict[str, Any]:
    return {"output_type": "stream", "output_id": output_id, "name": "stdout", "text": list(segments)}


class Model:
    """The document as a dict, and what each mutation means: what docs/wire.md says, with no thought of cost."""

    def __init__(self) -> None:
        self.content: dict[str, Any] = {
            "schema": 1,
            "notebook": "automerge:x",
            "kernel": {"status": "not_started", "name": "python3", "language": ""},
            "queue": {"executing": None, "queued": []},
            "executions": {},
            "cells": {},
            "comms": {},
            "environment": {"in_sync": True, "added": [], "removed": []},
            "file": {"path": "a.ipynb", "status": "loading", "saved_notebook_heads": []},
            "kernel_log": [],
        }

    def outputs(self, target: Target) -> list[Any] | None:
        if target.kind == "kernel_log":
            outputs: list[Any] = self.content["kernel_log"]
            return outputs
        entry = self.content["cells" if target.kind == "cell" else "comms"].get(target.id)
        return None if entry is None else entry.setdefault("outputs", [])

    def place(self, target: Target, output_id: str) -> tuple[list[Any], int] | None:
        outputs = self.outputs(target)
        found = [index for index, manifest in enumerate(outputs or []) if manifest["output_id"] == output_id]
        return (outputs, found[-1]) if outputs is not None and found else None

    def segments(self, target: Target, output_id: str) -> list[Any] | None:
        place = self.place(target, output_id)
        return None if place is None else place[0][place[1]].get("text")

    def assign(self, key: str, mutation: PreparedMutation, names: Sequence[str]) -> None:
        for name in names:
            value = plain(getattr(mutation, name))
            if value is None:
                self.content[key].pop(name, None)
            elif value is not UNSET:
                self.content[key][name] = value

    def apply(self, mutation: PreparedMutation) -> bool:
        executions, cells, comms = (self.content[key] for key in ("executions", "cells", "comms"))
        match mutation:
            case SetKernel():
                self.assign("kernel", mutation, ("status", "name", "language", "error", "input_request"))
            case SetFile():
                self.assign("file", mutation, ("path", "status", "error", "saved_notebook_heads", "saved_at"))
            case SetEnvironment():
                self.assign("environment", mutation, ("in_sync", "added", "removed", "progress"))
            case SetQueue(executing, queued):
                self.content["queue"] = {"executing": executing, "queued": list(queued)}
            case AddExecution(execution_id, cell_id, order):
                if execution_id in executions:
                    return False
                entry = {"cell_id": cell_id, "status": "queued", "execution_count": None, "order": order}
                executions[execution_id] = entry
            case SetExecution(execution_id) if execution_id in executions:
                for name in ("status", "execution_count", "started_at", "ended_at"):
                    if getattr(mutation, name) is not UNSET:
                        executions[execution_id][name] = getattr(mutation, name)
            case RemoveExecution(execution_id):
                return executions.pop(execution_id, None) is not None
            case AddCell(cell_id, execution_count):
                entry = {"execution_id": None, "execution_count": execution_count, "outputs": []}
                cells.setdefault(cell_id, entry)
            case SetCell(cell_id) if cell_id in cells:
                for name in ("execution_id", "execution_count"):
                    if getattr(mutation, name) is not UNSET:
                        cells[cell_id][name] = getattr(mutation, name)
            case RemoveCell(cell_id):
                return cells.pop(cell_id, None) is not None
            case OpenComm(comm_id):
                if comm_id in comms:
                    return False
                names = ("target_name", "model_module", "model_name", "order", "state")
                comms[comm_id] = {name: plain(getattr(mutation, name)) for name in names}
                if mutation.model_name == "OutputModel":
                    comms[comm_id]["outputs"] = []
            case SetCommState(comm_id) if comm_id in comms:
                comms[comm_id]["state"] |= plain(mutation.state)
            case CloseComm(comm_id):
                return comms.pop(comm_id, None) is not None
            case ClearOutputs(target) | TrimOutputs(target):
                outputs = self.outputs(target)
                if outputs is None:
                    return False
                keep = mutation.keep if isinstance(mutation, TrimOutputs) else 0
                del outputs[: max(0, len(outputs) - keep)]
            case AppendManifest(target, manifest):
                outputs = self.outputs(target)
                if outputs is None:
                    return False
                outputs.append(deepcopy(manifest))
            case ReplaceManifest(target, manifest):
                place = self.place(target, manifest["output_id"])
                if place is None:
                    return False
                place[0][place[1]] = deepcopy(manifest)
            case EditSegments(target, output_id, first, segments, metadata):
                text = self.segments(target, output_id)
                place = self.place(target, output_id)
                if text is None or place is None:
                    return False
                text[first:] = segments
                if metadata is not None:
                    place[0][place[1]]["metadata"] = metadata
            case _:
                return False
        return True


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else deepcopy(value)


cell_ids = st.sampled_from(["c1", "c2"])
comm_ids = st.sampled_from(["k1", "k2", "k3"])
execution_ids = st.sampled_from(["e1", "e2", "e3"])
output_ids = st.sampled_from(["o1", "o2", "o3"])
targets = st.one_of(
    cell_ids.map(lambda cell_id: Target("cell", cell_id)),
    comm_ids.map(lambda comm_id: Target("comm", comm_id)),
    st.just(KERNEL_LOG),
)
texts = st.sampled_from(["", "a", "b\n", "é😀"])
blobs = st.just({"blob": "0" * 64, "size": 1025, "media_type": "text/plain"})
values = st.one_of(
    texts, blobs, st.just({"json": "[1]"}), st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.just(0.5)
)
metadata = st.sampled_from([None, {"json": "{}"}, {"json": "[]"}, {"blob": "1" * 64, "size": 2, "media_type": "x/y"}])
states = st.dictionaries(st.sampled_from(["value", "layout", "x"]), values, max_size=3)
counts = st.one_of(st.none(), st.integers(0, 9))
displays = st.builds(display, output_ids, texts)
streams = st.builds(lambda output_id, segments: stream(output_id, *segments), output_ids, st.lists(texts, max_size=4))
manifests = st.one_of(displays, streams)
optional_maps = st.one_of(st.none(), st.just(UNSET), st.just({"message": "m", "traceback": ["a", "b"]}))
ids = st.lists(st.sampled_from("abcdef"), unique=True, max_size=6).map(tuple)
unset_or_text = st.one_of(st.just(UNSET), texts)

mutations = st.one_of(
    st.builds(SetKernel, st.sampled_from(["idle", "busy", UNSET]), unset_or_text, unset_or_text, optional_maps),
    st.builds(SetQueue, st.one_of(st.none(), execution_ids), ids),
    st.builds(AddExecution, execution_ids, cell_ids, st.integers(1, 9)),
    st.builds(SetExecution, execution_ids, st.sampled_from(["running", "done"]), counts, unset_or_text),
    st.builds(RemoveExecution, execution_ids),
    st.builds(AddCell, cell_ids, counts),
    st.builds(SetCell, cell_ids, st.one_of(st.none(), execution_ids), counts),
    st.builds(RemoveCell, cell_ids),
    st.builds(ClearOutputs, targets),
    st.builds(AppendManifest, targets, manifests),
    st.builds(ReplaceManifest, targets, manifests),
    st.builds(EditSegments, targets, output_ids, st.integers(0, 5), st.lists(values, max_size=3).map(tuple), metadata),
    st.builds(TrimOutputs, targets, st.integers(0, 3)),
    st.builds(OpenComm, comm_ids, texts, texts, st.sampled_from(["OutputModel", "Box"]), st.integers(0, 2**53), states),
    st.builds(SetCommState, comm_ids, states),
    st.builds(CloseComm, comm_ids),
    st.builds(SetFile, unset_or_text, st.just("ready"), st.one_of(st.none(), texts), ids),
    st.builds(SetEnvironment, st.booleans(), ids, ids, st.one_of(st.none(), st.just({"phase": "ready"}))),
)


def without_gap(model: Model, mutation: PreparedMutation) -> PreparedMutation:
    """The mutation as a reducer may make it: its first segment is there, or the next one."""
    if not isinstance(mutation, EditSegments):
        return mutation
    there = len(model.segments(mutation.target, mutation.output_id) or ())
    first = min(mutation.first, there)
    return EditSegments(mutation.target, mutation.output_id, first, mutation.segments, mutation.metadata)


@given(st.lists(st.lists(mutations, max_size=8), max_size=12), st.sampled_from([0, 3, ROTATE_AFTER]))
def test_any_mutations_give_the_document_that_they_mean(
    batches: list[list[PreparedMutation]], rotate_after: int
) -> None:
    replica, schema = new_document(rotate_after)
    model = Model()
    start = [AddCell("c1"), OpenComm("k1", "t", "m", "Box", 1, {}), AppendManifest(CELL, stream("o1", "a"))]
    for batch in [start, *batches]:
        ignored = 0
        with replica.transaction() as tx:
            for mutation in batch:
                mutation = without_gap(model, mutation)
                there = model.apply(mutation)
                ignored += not there
                assert schema.apply(tx, [mutation]) == (not there)

        assert read_runtime(replica) == model.content

    copy, copied_schema = new_document()
    assert commit(copy, copied_schema, *copy_runtime(replica)) == 0
    assert read_runtime(copy) == model.content


def test_a_new_document_has_its_roots() -> None:
    replica, _ = new_document()

    assert read_runtime(replica) == Model().content


class CountingTransaction:
    """Counts how often each key of each map is written."""

    def __init__(self, tx: Transaction, counts: Counter[tuple[bytes, str]]) -> None:
        self._tx = tx
        self._counts = counts

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._tx, name)
        if name not in {"put", "put_object", "delete"}:
            return method

        def counted(obj: bytes, key: str | int, *args: object) -> Any:
            if isinstance(key, str):
                self._counts[obj, key] += 1
            return method(obj, key, *args)

        return counted


REPEATED: dict[str, Any] = {
    "kernel": lambda n: [SetKernel(status="busy" if n % 2 else "idle")],
    "kernel input": lambda n: [SetKernel(input_request={"prompt": str(n)} if n % 2 else None)],
    "queue": lambda n: [SetQueue(f"e{n}", ()), SetQueue(None, (f"e{n}",))],
    "file": lambda n: [SetFile(saved_at=str(n), saved_notebook_heads=(str(n),))],
    "environment": lambda n: [SetEnvironment(True, (), (), {"completed": n})],
    "cell that runs": lambda n: [SetCell("c1", execution_id=str(n)), ClearOutputs(CELL)],
    "cell that shows nothing": lambda n: [SetCell("c2", execution_id=str(n), execution_count=n)],
    "trait": lambda n: [SetCommState("k1", {"value": n})],
    "captured outputs": lambda n: [AppendManifest(COMM, display(str(n))), ClearOutputs(COMM)],
    "progress bar": lambda n: [EditSegments(CELL, "s", 1, (f"{n}\r",))],
    "rewritten stream": lambda n: [EditSegments(CELL, "s", 0, (f"{n}\r", "x"))],
    "cut stream": lambda n: [EditSegments(CELL, "s", 1, ("y",), {"json": str(n)})],
    "updated display": lambda n: [ReplaceManifest(CELL, display("d", str(n)))],
    "kernel log": lambda n: [AppendManifest(KERNEL_LOG, display(str(n))), TrimOutputs(KERNEL_LOG, 3)],
}


@pytest.mark.parametrize("what", REPEATED)
def test_no_key_is_written_more_often_than_a_register_may_be(what: str) -> None:
    replica, schema = new_document()
    commit(replica, schema, AddCell("c1"), AddCell("c2"), OpenComm("k1", "t", "m", "OutputModel", 1, {"a": 1}))
    commit(replica, schema, AppendManifest(CELL, stream("s", "a", "b")), AppendManifest(CELL, display("d")))
    counts: Counter[tuple[bytes, str]] = Counter()
    with replica.transaction() as tx:
        counting: Any = CountingTransaction(tx, counts)
        for number in range(3_000):
            assert schema.apply(counting, REPEATED[what](number)) == 0

    assert max(counts.values(), default=0) <= ROTATE_AFTER + 1


def test_a_register_that_is_replaced_has_no_gap() -> None:
    replica, schema = new_document(rotate_after=2)
    objects = set()
    for number in range(30):
        commit(replica, schema, SetKernel(language=str(number)))
        found = replica.get(ROOT, "kernel")
        assert found is not None
        objects.add(found[1])

        expected = {"status": "not_started", "name": "python3", "language": str(number)}
        assert read_runtime(replica, replica.heads())["kernel"] == expected
    assert len(objects) == 4  # after 2 writes, then after 4 for each of its 3 keys


def test_what_names_nothing_is_left_out_and_counted() -> None:
    replica, schema = new_document()
    heads = replica.heads()

    ignored = commit(
        replica,
        schema,
        AppendManifest(CELL, display("o")),
        EditSegments(COMM, "o", 0, ("a",)),
        EditSegments(KERNEL_LOG, "o", 0, ("a",)),
        ReplaceManifest(KERNEL_LOG, display("o")),
        ClearOutputs(CELL),
        TrimOutputs(CELL, 1),
        SetCell("c1", execution_count=1),
        SetExecution("e1", status="done"),
        SetCommState("k1", {"value": 1}),
        RemoveCell("c1"),
        RemoveExecution("e1"),
        CloseComm("k1"),
    )

    assert ignored == 12
    assert replica.heads() == heads


def test_a_closed_comm_is_gone_and_another_kernel_may_use_its_id() -> None:
    replica, schema = new_document()
    opened = OpenComm("k1", "jupyter.widget", "m", "OutputModel", 1, {"a": 1})
    commit(replica, schema, opened, AppendManifest(COMM, display("o")), CloseComm("k1"))
    assert read_comm(replica, "k1") is None
    assert commit(replica, schema, AppendManifest(COMM, display("o")), SetCommState("k1", {"a": 2})) == 2
    assert commit(replica, schema, opened) == 0
    entry = read_comm(replica, "k1")
    assert entry is not None
    assert (entry["state"], entry["outputs"]) == ({"a": 1}, [])


@pytest.mark.parametrize("bad_id", ["", "\ud800"])
def test_ids_that_no_document_takes_are_left_out(bad_id: str) -> None:
    replica, schema = new_document()

    assert (
        commit(replica, schema, OpenComm(bad_id, "t", "m", "n", 1, {}), AddCell(bad_id), AddExecution(bad_id, "c", 1))
        == 3
    )


def test_text_of_a_kernel_that_is_no_unicode_is_repaired() -> None:
    replica, schema = new_document()
    commit(replica, schema, SetKernel(error={"message": "a\ud800b", "traceback": ["\udfff"]}))

    assert read_runtime(replica)["kernel"]["error"] == {"message": "a\ufffdb", "traceback": ["\ufffd"]}


def test_segments_can_become_fewer() -> None:
    replica, schema = new_document()
    commit(replica, schema, AddCell("c1"), AppendManifest(CELL, stream("s", "a", "b", "c")))
    commit(replica, schema, EditSegments(CELL, "s", 1, ("B",)), EditSegments(CELL, "s", 2, ("C",), {"json": "{}"}))

    assert read_runtime(replica)["cells"]["c1"]["outputs"] == [
        stream("s", "a", "B", "C") | {"metadata": {"json": "{}"}}
    ]


def test_a_queue_gets_a_new_list_when_many_left_it() -> None:
    replica, schema = new_document(rotate_after=2)
    for first in range(20):
        queued = tuple(str(number) for number in range(first, first + 4))
        commit(replica, schema, SetQueue(None, queued))

        assert read_runtime(replica)["queue"] == {"executing": None, "queued": list(queued)}


def test_a_gap_between_segments_is_a_bug() -> None:
    replica, schema = new_document()
    commit(replica, schema, AddCell("c1"), AppendManifest(CELL, stream("s", "a")))

    with pytest.raises(ValueError, match="no segment 2"):
        commit(replica, schema, EditSegments(CELL, "s", 2, ("c",)))


def test_a_copy_at_heads_does_not_see_what_came_after() -> None:
    replica, schema = new_document()
    commit(replica, schema, AddCell("c1"), AppendManifest(CELL, display("o1")))
    heads, before = replica.heads(), read_runtime(replica)
    copying = copy_runtime(replica, heads)
    first = next(copying)
    commit(replica, schema, AppendManifest(CELL, display("o2")), AddCell("c2"), SetKernel(status="busy"))

    copy, copied_schema = new_document()
    commit(copy, copied_schema, first, *copying)

    assert read_runtime(copy) == before


def test_a_copy_cuts_a_long_stream() -> None:
    replica, schema = new_document()
    segments = [f"{number}\n" for number in range(2 * SEGMENTS_AT_ONCE + 1)]
    commit(replica, schema, AddCell("c1"), AppendManifest(CELL, stream("s", *segments)))

    mutations = list(copy_runtime(replica))

    sizes = [len(m.segments) for m in mutations if isinstance(m, EditSegments)]
    assert sizes == [SEGMENTS_AT_ONCE, 1]
    copy, copied_schema = new_document()
    commit(copy, copied_schema, *mutations)
    assert read_runtime(copy) == read_runtime(replica)


def test_entries_are_read_one_by_one() -> None:
    replica, schema = new_document()
    assert read_cell(replica, "c1") is None
    assert entry_ids(replica, "cells") == []
    heads = replica.heads()
    commit(replica, schema, AddCell("c2"), AddCell("c1"), AppendManifest(CELL, display("o")))
    commit(replica, schema, OpenComm("k1", "t", "m", "Box", 1, {"value": 1}))
    content = read_runtime(replica)

    assert entry_ids(replica, "cells") == ["c1", "c2"]
    assert entry_ids(replica, "comms") == ["k1"]
    assert read_cell(replica, "c1") == content["cells"]["c1"]
    assert read_comm(replica, "k1") == content["comms"]["k1"]
    assert read_cell(replica, "c1", heads) is None
    assert entry_ids(Replica(), "cells") == []
    assert read_comm(Replica(), "k1") is None


def test_a_queue_that_moves_takes_two_edits() -> None:
    assert list_difference(("a", "b", "c"), ("b", "c", "d")) == ([0], ("d",))
    assert list_difference(("a", "b", "c"), ("a", "c")) == ([1], ())
    assert list_difference((), ("a",)) == ([], ("a",))


@given(st.lists(st.sampled_from("abcd")).map(tuple), st.lists(st.sampled_from("abcd")).map(tuple))
def test_any_difference_leads_from_old_to_new(old: tuple[str, ...], new: tuple[str, ...]) -> None:
    deleted, appended = list_difference(old, new)

    kept = [item for index, item in enumerate(old) if index not in deleted]
    assert (*kept, *appended) == new
    assert deleted == sorted(deleted)
