import itertools
import json
import math
import re
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.notebook_file import (
    WIDGET_STATE,
    InvalidNotebook,
    LoadedCell,
    LoadedNotebook,
    SavedCell,
    SavedNotebook,
    parse_notebook,
    parse_output,
    render_notebook,
)
from sync.core.media_types import is_binary
from sync.core.outputs import DisplayOutput, ErrorOutput, Output, StreamOutput
from sync.core.values import build_manifest, decode_manifest

PNG = b64encode(b"\x89PNG" + bytes(range(200))).decode()


def ids() -> Callable[[], str]:
    counter = itertools.count(1)
    return lambda: f"new-{next(counter)}"


def parse(content: object) -> LoadedNotebook:
    return parse_notebook(json.dumps(content).encode(), ids())


def notebook(*cells: object, **others: Any) -> dict[str, Any]:
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": list(cells)} | others


def code(**others: Any) -> dict[str, Any]:
    return {
        "cell_type": "code", "id": "c1", "metadata": {}, "source": [], "execution_count": None, "outputs": []
    } | others  # fmt: skip


def through_documents(output: Output) -> dict[str, Any]:
    """The output as the documents give it back."""
    manifest, blobs = build_manifest(output)
    return decode_manifest(manifest, {blob.hash: blob.data for blob in blobs}.__getitem__)


def saved(loaded: LoadedNotebook) -> SavedNotebook:
    """A loaded notebook that is saved with nothing done to it."""
    return SavedNotebook(
        loaded.metadata,
        [
            SavedCell(
                cell.cell_id, cell.cell_type, cell.source, cell.metadata, cell.attachments, cell.execution_count,
                [through_documents(output) for output in cell.outputs],
            )
            for cell in loaded.cells
        ],
        loaded.widget_state,
    )  # fmt: skip


def check(rendered: bytes) -> Any:
    """The content of a file that Jupyter takes, and writes in the same way."""
    content = nbformat.reads(rendered.decode(), as_version=4)
    nbformat.validate(content)
    assert rendered.decode() == nbformat.writes(content) + "\n"
    return json.loads(rendered)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text("ab\n\r\f\x85\u2028é", max_size=30)
odd_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
lines = texts | st.lists(texts, max_size=4)
metadata = st.dictionaries(
    st.sampled_from(["tags", "name", "collapsed", "scrolled", "jupyter", "execution", "format", "trusted", "é", ""]),
    odd_json | st.sampled_from([["a", "a"], ["a,b"], ["ok"]]),
    max_size=4,
)
bundles = st.dictionaries(
    st.sampled_from(["text/plain", "text/html", "image/svg+xml", "application/javascript", "image/png", "x"]),
    lines | st.just(PNG) | odd_json,
    max_size=3,
) | st.dictionaries(st.sampled_from(["application/json", "application/vnd.a.v1+json"]), odd_json, max_size=2)
outputs = st.one_of(
    st.fixed_dictionaries({"output_type": st.just("stream"), "name": st.sampled_from(["stdout", "x"]), "text": lines}),
    st.fixed_dictionaries(
        {"output_type": st.sampled_from(["display_data", "execute_result"]), "data": bundles, "metadata": metadata},
        optional={"execution_count": odd_json, "transient": st.just({"display_id": "d"})},
    ),
    st.fixed_dictionaries(
        {"output_type": st.just("error")},
        optional={"ename": odd_json, "evalue": odd_json, "traceback": odd_json | st.lists(texts, max_size=3)},
    ),
    odd_json,
)
cells = st.fixed_dictionaries(
    {},
    optional={
        "cell_type": st.sampled_from(["code", "markdown", "raw", "heading", None]),
        "id": st.sampled_from(["a", "b", "", "no spaces", "x" * 65]) | odd_json,
        "source": lines | odd_json,
        "metadata": metadata | odd_json,
        "attachments": st.dictionaries(texts, bundles | odd_json, max_size=2) | odd_json,
        "execution_count": st.integers(-2, 9) | odd_json,
        "outputs": st.lists(outputs, max_size=3) | odd_json,
    },
)
root_metadata = st.dictionaries(
    st.sampled_from(["kernelspec", "language_info", "title", "authors", "orig_nbformat", "widgets", "é"]),
    odd_json | st.just({"name": "python3", "display_name": "Python 3"}) | st.just({WIDGET_STATE: {"state": {}}}),
    max_size=4,
)


@given(st.lists(cells, max_size=4), root_metadata | odd_json, st.integers(0, 7) | odd_json)
def test_whatever_a_file_holds_is_saved_valid_and_then_no_longer_changes(
    raw_cells: list[Any], raw_metadata: Any, minor: Any
) -> None:
    loaded = parse(notebook(*raw_cells, metadata=raw_metadata, nbformat_minor=minor))
    assert len(loaded.cells) == len(raw_cells)
    rendered = render_notebook(saved(loaded))
    check(rendered)
    assert render_notebook(saved(parse_notebook(rendered, ids()))) == rendered


MIMES = st.sampled_from(["text/x", "chemical/x-smiles", "x/y", "application/x-latex", "application/json", "x/y+json"])


@given(MIMES | st.from_regex(r"[a-z]{1,6}/[a-z.+-]{1,9}", fullmatch=True), lines | st.just(PNG) | st.text("aB 9/=\n"))
def test_a_cell_that_nobody_touched_keeps_its_text_whatever_its_kind_is(mime: str, text: str | list[str]) -> None:
    """But white space in the base64 of an image, or of another kind that is registered as binary."""
    output = {"output_type": "display_data", "metadata": {}, "data": {mime: text}}
    content = check(render_notebook(saved(parse(notebook(code(outputs=[output]))))))
    [shown] = content["cells"][0]["outputs"]
    kept, given = shown["data"][mime], text
    if mime != "application/json":  # there a list is a value; elsewhere it is text in lines
        kept, given = "".join(kept), "".join(given)

    assert kept == given or (is_binary(mime) and kept == "".join("".join(given).split()))


def test_a_file_as_jupyter_writes_it_is_given_back_to_the_byte() -> None:
    content = notebook(
        code(
            id="first_cell-1",
            source=["import x\n", "x.plot()"],
            execution_count=7,
            metadata={"tags": ["plot"], "collapsed": False},
            outputs=[
                {"name": "stdout", "output_type": "stream", "text": ["one\n", "two"]},
                {
                    "data": {
                        "application/vnd.v+json": {"a": [1, 2.5, None]},
                        "image/png": PNG,
                        "image/svg+xml": ["<svg>\n", "</svg>"],
                        "text/html": ["<b>\n", "é</b>"],
                        "text/plain": ["<x>"],
                    },
                    "metadata": {"image/png": {"width": 5}, "notebookd": {"size": 5, "truncated": True}},
                    "output_type": "display_data",
                },
                {
                    "data": {"text/plain": ["2"]},
                    "execution_count": 7,
                    "metadata": {},
                    "output_type": "execute_result",
                },
                {"ename": "E", "evalue": "v", "output_type": "error", "traceback": ["\u001b[31mE\u001b[0m", "v"]},
            ],
        ),
        {
            "attachments": {"a.png": {"image/png": PNG}},
            "cell_type": "markdown",
            "id": "m",
            "metadata": {},
            "source": ["# é"],
        },
        {"cell_type": "raw", "id": "r", "metadata": {"format": "text/x"}, "source": []},
        metadata={
            "kernelspec": {"display_name": "Python 3", "name": "python3"},
            "widgets": {"other": 1, WIDGET_STATE: {"version_major": 2, "state": {"m": {"model_name": "X"}}}},
        },
    )
    data = (nbformat.writes(nbformat.from_dict(content)) + "\n").encode()
    loaded = parse_notebook(data, ids())
    assert loaded.widget_state == {"version_major": 2, "state": {"m": {"model_name": "X"}}}
    assert loaded.metadata["widgets"] == {"other": 1}
    assert loaded.warnings == []
    assert render_notebook(saved(loaded)) == data


def test_cells_and_outputs_are_read_into_our_words() -> None:
    raw_outputs = [
        {"output_type": "stream", "name": "stderr", "text": ["a\n", "b"]},
        {
            "output_type": "display_data",
            "data": {"text/html": ["x", "y"], "application/json": ["x"]},
            "metadata": {"k": 1},
        },
        {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["l1", "l2"]},
    ]
    [cell] = parse(notebook(code(source=["a\n", "b"], execution_count=3, outputs=raw_outputs))).cells
    assert cell == LoadedCell(
        "c1",
        "code",
        "a\nb",
        execution_count=3,
        outputs=[
            StreamOutput("new-1", "stderr", ("a\nb",)),
            DisplayOutput("new-2", "display_data", {"text/html": "xy", "application/json": ["x"]}, {"k": 1}),
            ErrorOutput("new-3", "E", "v", ("l1", "l2")),
        ],
    )


def test_ids_are_kept_if_valid_and_unique_and_else_made() -> None:
    raw_ids = ["good_id-1", "good_id-1", "bad id", "x" * 65, "", 7, None]
    loaded = parse(notebook(*[code(id=cell_id) for cell_id in raw_ids], {"cell_type": "markdown"}))
    assert [cell.cell_id for cell in loaded.cells] == ["good_id-1", *(f"new-{number}" for number in range(1, 8))]


@pytest.mark.parametrize("minor", [0, 1, 2, 3, 4, 5, 6])
def test_every_minor_version_is_read(minor: int) -> None:
    loaded = parse(notebook({"cell_type": "code", "source": "1"}, nbformat_minor=minor))
    assert (loaded.nbformat_minor, loaded.cells[0].source) == (minor, "1")


def test_a_file_of_version_3_is_converted() -> None:
    worksheet = {
        "cells": [
            {"cell_type": "heading", "level": 2, "source": "Title"},
            {"cell_type": "code", "language": "python", "input": ["1+", "1"], "prompt_number": 4, "outputs": [
                {"output_type": "pyout", "text": "2", "prompt_number": 4, "metadata": {}},
                {"output_type": "pyerr", "ename": "E", "evalue": "v", "traceback": ["t"]},
                {"output_type": "display_data", "png": PNG, "metadata": {}},
            ]},
        ]
    }  # fmt: skip
    loaded = parse({"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": "n"}, "worksheets": [worksheet]})
    title, cell = loaded.cells
    assert (title.cell_type, title.source) == ("markdown", "## Title")
    assert (cell.source, cell.execution_count, len(cell.outputs)) == ("1+\n1", 4, 3)
    check(render_notebook(saved(loaded)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"not json", "not JSON"),
        (b"\xff\xff", "not JSON"),
        (b'{"nbformat": 4, "cells": [', "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b'{"nbformat": 4, "cells": [], "metadata": {"n": ' + b"1" * 5000 + b"}}", "not JSON"),
        (b"[]", "no object"),
        (b"{}", "no format version"),
        (b'{"nbformat": true, "cells": []}', "no format version"),
        (b'{"nbformat": 5, "cells": []}', "nbformat 5"),
        (b'{"nbformat": 4}', "no list of cells"),
        (b'{"nbformat": 4, "cells": {}}', "no list of cells"),
        (b'{"nbformat": 4, "cells": [7]}', "cell 1 is no object"),
        (b'{"nbformat": 3, "worksheets": 7}', "can't be converted"),
        (b'{"nbformat": 3, "worksheets": [{"cells": [[]]}]}', "can't be converted"),
        (b'{"nbformat": 2}', "can't be converted"),
        (b'{"nbformat": -1}', "can't be converted"),
        (json.dumps(notebook(code(source="x" * (1024 * 1024 + 1)))).encode(), "source of cell 1 exceeds"),
        (json.dumps(notebook(*[code(source="x" * 1_000_000)] * 2)).encode(), "sources exceed"),
        (b'{"nbformat": 4, "cells": [], "metadata": ' + b'{"a":' * 70 + b"1" + b"}" * 71, "nest deeper"),
    ],
)
def test_what_cannot_be_read_without_loss_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidNotebook, match=re.escape(reason)):
        parse_notebook(data, ids())


def test_what_can_be_left_out_is_left_out_with_a_warning() -> None:
    loaded = parse(
        notebook(
            code(outputs=[{"output_type": "pyout"}, 7, {"output_type": "stream", "text": "kept"}]),
            {"cell_type": "heading", "source": "kept"},
            code(metadata=[1]),
        )
    )
    assert [len(cell.outputs) for cell in loaded.cells] == [1, 0, 0]
    assert (loaded.cells[1].cell_type, loaded.cells[1].source) == ("raw", "kept")
    assert len(loaded.warnings) == 4


def test_a_file_full_of_junk_makes_few_warnings() -> None:
    assert len(parse(notebook(code(outputs=[7] * 1000))).warnings) == 20


def test_byte_order_marks_utf16_line_ends_and_surrogates_are_no_obstacle() -> None:
    content = notebook(code(source="a\r\nb\rc"))
    text = json.dumps(content, ensure_ascii=False, indent=1).replace("\n", "\r\n")
    for data in (text.encode("utf-8-sig"), text.encode("utf-16")):
        assert parse_notebook(data, ids()).cells[0].source == "a\nb\rc"
    lone = (
        rb'{"nbformat": 4, "cells": [{"cell_type": "raw", "source": "\ud800\ud83d\ude00", "metadata": {"\udc00": 1}}]}'
    )
    [cell] = parse_notebook(lone, ids()).cells
    assert (cell.source, cell.metadata) == ("\ufffd😀", {"\ufffd": 1})


def test_nan_is_read_and_written_as_null() -> None:
    data = b'{"nbformat": 4, "cells": [], "metadata": {"x": [NaN, Infinity, 1e999]}}'
    loaded = parse_notebook(data, ids())
    assert math.isnan(loaded.metadata["x"][0])
    assert check(render_notebook(saved(loaded)))["metadata"] == {"x": [None, None, None]}


def test_what_nbformat_forbids_is_not_written() -> None:
    output = through_documents(DisplayOutput("o1", "execute_result", {"text/plain": "1"}, {}, "display-1", 5))
    stream = through_documents(StreamOutput("o2", "stdout", ("x",), {"notebookd": {"truncated": True}}))
    cell = SavedCell(
        "not a valid id", "code", "x", {"tags": ["a", "a"], "trusted": True, "mine": {"deep": 1}},
        {"a.png": {"image/png": PNG}}, -5, [output, stream],
    )  # fmt: skip
    metadata = {"kernelspec": {"name": "no display name"}, "language_info": 5, "signature": "s", "mine": 1}
    content = check(render_notebook(SavedNotebook(metadata, [cell, SavedCell("é", "nonsense", "y", {"format": 7})])))
    assert content["metadata"] == {"mine": 1}
    first, second = content["cells"]
    assert first["metadata"] == {"mine": {"deep": 1}}
    assert first["outputs"] == [
        {"data": {"text/plain": ["1"]}, "execution_count": 5, "metadata": {}, "output_type": "execute_result"},
        {"name": "stdout", "output_type": "stream", "text": ["x"]},
    ]
    assert (first["execution_count"], "attachments" in first) == (None, False)
    assert (second["cell_type"], second["metadata"]) == ("raw", {})
    assert first["id"] != second["id"]


def test_an_output_that_cannot_be_valid_is_an_error_and_not_a_broken_file() -> None:
    broken = {"output_type": "stream", "name": 7, "text": "x"}
    with pytest.raises(InvalidNotebook, match="not valid"):
        render_notebook(SavedNotebook({}, [SavedCell("c1", "code", "", outputs=[broken])]))


def test_metadata_that_nest_without_end_are_an_error_and_not_a_crash() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(InvalidNotebook, match="too deeply"):
        render_notebook(SavedNotebook(deep))


def test_surrogates_of_a_peer_do_not_stop_a_save() -> None:
    content = check(render_notebook(SavedNotebook({"x": "\ud800"}, [SavedCell("c1", "raw", "a\udfffb")])))
    assert content["cells"][0]["source"] == ["a\ufffdb"]


def test_a_fresh_notebook_is_valid() -> None:
    assert check(render_notebook(SavedNotebook())) == notebook()


@pytest.mark.parametrize("raw", [None, 7, [], {}, {"output_type": []}, {"output_type": "update_display_data"}])
def test_an_output_of_no_known_type_is_none(raw: object) -> None:
    assert parse_output(raw, ids()) is None
