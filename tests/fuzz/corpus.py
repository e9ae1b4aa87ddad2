"""Real changes, of our own schema and of JavaScript's library, each with the changes that it builds on."""

from collections.abc import Callable, Sequence
from typing import Any

from sync.core.binding import ROOT, Change, ObjType, Replica, ScalarType, Transaction
from sync.core.change_log import LoggedChange
from sync.core.changes import CheckedChange, check_changes
from sync.core.document import Document
from sync.core.identifiers import DocumentId
from sync.core.notebook_schema import Cell, NotebookSchema
from tests.core.js_changes import JS_CHANGES

RUNTIME_URL = "automerge:4NMNnkMhL8jXrdJ9jamS58PAVdXu"


def _notebook() -> Sequence[CheckedChange]:
    replica = Replica(b"\x01" * 16)
    with replica.transaction() as tx:
        NotebookSchema.create(tx, runtime_url=RUNTIME_URL, metadata={"kernelspec": {"name": "python3"}, "tags": ["x"]})
    with replica.transaction() as tx:
        for number, cell_id in enumerate("abc"):
            NotebookSchema.add_cell(tx, Cell(cell_id, "code", f"{number + 1}abc", f"print('{cell_id}')", {"n": number}))
    return _checked(replica.changes_since(()))


def _edits(base: Sequence[CheckedChange]) -> Sequence[CheckedChange]:
    replica = Replica(b"\x02" * 16)
    replica.apply([change.chunk for change in base])
    writes: list[Callable[[Transaction], object]] = [
        lambda tx: NotebookSchema.edit_source(tx, "a", "print('edited')\n1 + 1"),
        lambda tx: NotebookSchema.add_cell(
            tx, Cell("d", "markdown", "5zzz", "# Héading 😀", {"deep": [{"x": [1, 2.5]}]})
        ),
        lambda tx: NotebookSchema.delete_cell(tx, "b"),
        lambda tx: NotebookSchema.set_cell_metadata(tx, "a", {"tags": ["one", "two"], "n": None}),
        lambda tx: NotebookSchema.set_position(tx, "c", "0zzz"),
        lambda tx: NotebookSchema.set_metadata(tx, {"language_info": {"name": "python"}}),
        lambda tx: NotebookSchema.edit_source(tx, "a", ""),
        lambda tx: tx.put(ROOT, "extra", ScalarType.Bytes, b"\x00\x01"),
        lambda tx: tx.put_object(ROOT, "list", ObjType.List),
    ]
    for write in writes:
        with replica.transaction() as tx:
            write(tx)
    return _checked(replica.changes_since(tuple(change.hash for change in base[-1:])))


def _checked(changes: Sequence[Change]) -> Sequence[CheckedChange]:
    return tuple(check_changes(b"".join(bytes(change.raw_bytes) for change in changes)))


def logged(change: CheckedChange, origin: Any = None) -> LoggedChange:
    """As a document keeps it."""
    return LoggedChange(change.hash, change.deps, change.chunk, change.max_op, origin)


def document_with(document_id: DocumentId, changes: Sequence[CheckedChange]) -> Document:
    """A document that holds these changes, published."""
    document = Document(document_id)
    if changes:
        document.apply([(logged(change), change.actor, change.seq, change.op_count) for change in changes])
    document.publish()
    return document


def base_document(document_id: DocumentId) -> Document:
    """The notebook with all edits."""
    return document_with(document_id, [*NOTEBOOK, *EDITS])


NOTEBOOK = _notebook()
EDITS = _edits(NOTEBOOK)
JAVASCRIPT = tuple(check_changes(b"".join(bytes.fromhex(change.hex) for change in JS_CHANGES)))
# A change, and what must be there before it.
STEPS: tuple[tuple[Sequence[CheckedChange], CheckedChange], ...] = (
    *(((*NOTEBOOK, *EDITS[:number]), edit) for number, edit in enumerate(EDITS)),
    *((JAVASCRIPT[:number], change) for number, change in enumerate(JAVASCRIPT)),
)
