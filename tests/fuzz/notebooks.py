"""Notebook files: valid ones, damaged in a value or in a byte, into a document and back into a file."""

import json
from itertools import count
from random import Random
from typing import Any

from daemon.core.notebook_file import InvalidNotebook, parse_notebook, render_notebook
from daemon.core.notebook_model import LoadedNotebook, SavedCell, SavedNotebook
from sync.core.document import Document
from sync.core.identifiers import document_id
from sync.core.notebook_schema import Cell, CellsInsertion, NotebookSchema
from sync.core.value_reading import decode_attachments, decode_manifest
from sync.core.value_writing import encode_attachments
from sync.core.values import build_manifest
from tests.fuzz.corpus import RUNTIME_URL
from tests.fuzz.mutation import choose, damage, damage_value
from tests.fuzz.target import Target

_WORDS = (
    b"null",
    b"[]",
    b"{}",
    b'"',
    b"\\ud800",
    b"\\u0000",
    b"NaN",
    b"1e999",
    b"9" * 5000,
    b"[" * 2000,
    b"\xff",
    b"\xef\xbb\xbf",
)


def _cell(number: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": ["a\n", "b"], **more}


_OUTPUTS = [
    {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\r\x1b[2K"]},
    {"output_type": "display_data", "data": {"text/plain": ["x"], "image/png": "aGVsbG8=\n"}, "metadata": {}},
    {"output_type": "execute_result", "data": {"application/json": {"a": [1]}}, "metadata": {}, "execution_count": 3},
    {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["t1", "t2"]},
]
_WIDGETS = {"application/vnd.jupyter.widget-state+json": {"version_major": 2, "version_minor": 0, "state": {}}}
_FOUR: dict[str, Any] = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "widgets": _WIDGETS},
    "cells": [
        _cell(1, "code", execution_count=3, outputs=_OUTPUTS, metadata={"tags": ["x"], "collapsed": True}),
        _cell(2, "markdown", attachments={"a.png": {"image/png": "aGVsbG8="}}),
        _cell(3, "raw", metadata={"format": "text/html"}),
    ],
}
_THREE: dict[str, Any] = {
    "nbformat": 3,
    "nbformat_minor": 0,
    "metadata": {"name": "old"},
    "worksheets": [
        {
            "metadata": {},
            "cells": [
                {
                    "cell_type": "code",
                    "input": "1",
                    "language": "python",
                    "collapsed": False,
                    "outputs": [],
                    "metadata": {},
                },
                {"cell_type": "heading", "level": 2, "source": "Title", "metadata": {}},
            ],
        }
    ],
}


def make_notebook(rng: Random) -> bytes:
    """A file."""
    content = _THREE if rng.random() < 0.1 else _FOUR
    kind = choose(rng, (6, "values"), (3, "bytes"), (1, "right"))
    if kind == "values":
        for _ in range(rng.choice((1, 1, 2, 4))):
            content = damage_value(rng, content)
    data = json.dumps(content, ensure_ascii=rng.random() < 0.5).encode()
    return damage(rng, data, _WORDS) if kind == "bytes" else data


async def feed_notebook(data: bytes) -> str:
    """Read, written into a document, read from it, and rendered; what was rendered must be a notebook again."""
    ids = count()
    try:
        loaded = parse_notebook(data, lambda: f"00000000-0000-4000-8000-{next(ids):012}")
    except InvalidNotebook:
        return "refused"
    saved = _through_a_document(loaded)
    try:
        rendered = render_notebook(saved)
    except InvalidNotebook:
        return "never to be saved"
    again = parse_notebook(rendered, lambda: "id")
    if [cell.source for cell in again.cells] != [cell.source for cell in saved.cells]:
        raise AssertionError("sources changed on their way through a file")
    return "taken with warnings" if loaded.warnings else "taken"


def _through_a_document(loaded: LoadedNotebook) -> SavedNotebook:
    document = Document(document_id(b"n" * 16))
    document.commit(lambda tx: NotebookSchema.create(tx, runtime_url=RUNTIME_URL, metadata=loaded.metadata))
    blobs: dict[str, bytes] = {}
    cells, outputs = [], {}
    for number, cell in enumerate(loaded.cells):
        attachments, found = encode_attachments(cell.attachments)
        blobs.update((blob.hash, blob.data) for blob in found)
        cells.append(
            Cell(cell.cell_id, cell.cell_type, f"{number:05}x", cell.source, cell.metadata, attachments or None)
        )
        outputs[cell.cell_id] = []
        for output in cell.outputs:
            manifest, found = build_manifest(output)
            blobs.update((blob.hash, blob.data) for blob in found)
            outputs[cell.cell_id].append(manifest)
    insertion = CellsInsertion(cells)
    while not insertion.done:
        document.commit(insertion.write)
    return SavedNotebook(
        metadata=NotebookSchema.read_metadata(document.replica),
        cells=[
            SavedCell(
                cell_id=cell.cell_id,
                cell_type=cell.cell_type,
                source=cell.source,
                metadata=cell.metadata,
                attachments=decode_attachments(cell.attachments or {}, blobs.__getitem__),
                outputs=[decode_manifest(manifest, blobs.__getitem__) for manifest in outputs[cell.cell_id]],
            )
            for cell in NotebookSchema.read_cells(document.replica)
        ],
        widget_state=loaded.widget_state,
    )


NOTEBOOKS = Target("notebooks", make_notebook, feed_notebook)
