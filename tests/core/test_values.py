import json
import math
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.core import value_writing
from sync.core.json_text import encode_json
from sync.core.media_types import is_binary
from sync.core.mutations import (
    AddCell,
    AppendOutput,
    ClearOutputs,
    EditStream,
    Mutation,
    OpenComm,
    ReplaceOutput,
    SetCommState,
    SetExecution,
    SetQueue,
    Target,
)
from sync.core.outputs import DisplayOutput, ErrorOutput, Output, StreamOutput
from sync.core.prepared import AppendManifest, EditSegments, ReplaceManifest
from sync.core.values import (
    Blob,
    InvalidValue,
    blob_hashes,
    build_manifest,
    decode_attachments,
    decode_manifest,
    decode_state,
    decode_value,
    encode_attachments,
    encode_mime_value,
    encode_text,
    encode_trait,
    prepare,
    raw_size,
)

CELL = Target("cell", "c1")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text("aé😀", max_size=900)
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
states_inside = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
names = st.text("abcdefgh_é", min_size=1, max_size=20)


def load_from(blobs: Sequence[Blob]) -> Any:
    for blob in blobs:
        assert sha256(blob.data).hexdigest() == blob.hash
    return {blob.hash: blob.data for blob in blobs}.__getitem__


def fits_the_document(value: object) -> bool:
    """Whether Automerge and every client take this as it is."""
    match value:
        case dict():
            return all(key and key.encode() and fits_the_document(item) for key, item in value.items())
        case list() | tuple():
            return all(map(fits_the_document, value))
        case str():
            return len(value.encode()) <= 70_000
        case bool() | float() | None:
            return True
        case int():
            return abs(value) < 2**53
        case _:
            return False


@given(states_inside | st.binary(max_size=3000) | st.text("xyz\n", max_size=3000))
def test_a_trait_is_read_back_as_it_was(value: object) -> None:
    encoded, blobs = encode_trait("value", value)
    assert fits_the_document(encoded)
    assert decode_value(encoded, load_from(blobs)) == value
    assert set(blob_hashes(encoded)) == {blob.hash for blob in blobs}


@given(
    st.dictionaries(st.sampled_from(["text/plain", "text/html", "image/svg+xml"]), texts),
    st.dictionaries(st.sampled_from(["application/json", "application/vnd.x.v5+json"]), json_values),
    st.dictionaries(st.sampled_from(["image/png", "application/pdf"]), st.binary(max_size=2000)),
    st.dictionaries(names, json_values, max_size=3),
    st.none() | st.integers(0, 10_000),
)
def test_a_display_is_read_back_as_it_was(
    text: dict[str, Any],
    structured: dict[str, Any],
    binary: dict[str, bytes],
    metadata: dict[str, Any],
    count: int | None,
) -> None:
    data = text | structured | {mime: b64encode(raw).decode() for mime, raw in binary.items()}
    output = DisplayOutput("o1", "execute_result", data, metadata, "d1", count)
    manifest, blobs = build_manifest(output)
    assert fits_the_document(manifest)
    assert manifest["display_id"] == "d1"
    assert decode_manifest(manifest, load_from(blobs)) == {
        "output_type": "execute_result",
        "data": data,
        "metadata": metadata,
        "execution_count": count,
    }
    assert set(blob_hashes(manifest)) == {blob.hash for blob in blobs}


@given(st.lists(texts, max_size=5).map(tuple), texts, texts, st.lists(texts, max_size=30).map(tuple))
def test_streams_and_errors_are_read_back_as_they_were(
    segments: tuple[str, ...], ename: str, evalue: str, traceback: tuple[str, ...]
) -> None:
    manifest, blobs = build_manifest(StreamOutput("o1", "stderr", segments))
    decoded = decode_manifest(manifest, load_from(blobs))
    assert decoded == {"output_type": "stream", "name": "stderr", "text": "".join(segments)}
    manifest, blobs = build_manifest(ErrorOutput("o1", ename, evalue, traceback))
    decoded = decode_manifest(manifest, load_from(blobs))
    assert decoded == {"output_type": "error", "ename": ename, "evalue": evalue, "traceback": list(traceback)}


def test_text_is_inline_up_to_1024_bytes_of_utf8() -> None:
    assert encode_text("é" * 512, "text/plain") == ("é" * 512, [])
    value, [blob] = encode_text("é" * 512 + "x", "text/html")
    assert value == {"blob": blob.hash, "size": 1025, "media_type": "text/html"}
    assert (blob.media_type, blob.data) == ("text/html", ("é" * 512 + "x").encode())


def test_a_binary_mime_value_is_a_blob_of_the_decoded_bytes_however_small() -> None:
    value, [blob] = encode_mime_value("image/png", b64encode(PNG).decode() + "\n")
    assert value == {"blob": sha256(PNG).hexdigest(), "size": len(PNG), "media_type": "image/png"}
    assert blob.data == PNG


def test_base64_in_lines_is_joined_and_decoded() -> None:
    text = b64encode(PNG).decode()
    lines = [text[start : start + 76] + "\n" for start in range(0, len(text), 76)]
    _, [blob] = encode_mime_value("image/jpeg", lines)
    assert blob.data == PNG


@pytest.mark.parametrize("bad", ["not base64!", "YWI", "YWJ=", "YW=I", "é", "x" * 2001])
def test_base64_that_does_not_decode_is_kept_as_the_text_that_it_is(bad: str) -> None:
    value, blobs = encode_mime_value("image/png", bad)
    assert decode_value(value, load_from(blobs)) == bad
    manifest, blobs = build_manifest(DisplayOutput("o1", "display_data", {"image/png": bad}, {}))
    assert decode_manifest(manifest, load_from(blobs))["data"] == {"image/png": bad}


@pytest.mark.parametrize("mime", ["chemical/x-smiles", "x/y", "application/x-latex", "model/stl", "no type"])
@pytest.mark.parametrize("text", ["C C N CCC OC", "hello world " * 200, "aGVs bG8=", "aGVsbG8=\n", " ", "YWJj\r\nYWJj"])
def test_text_of_a_kind_that_nobody_knows_is_no_base64_for_its_letters(mime: str, text: str) -> None:
    manifest, blobs = build_manifest(DisplayOutput("o1", "display_data", {mime: text}, {}))
    assert decode_value(manifest["data"][mime], load_from(blobs)) == text


def test_canonical_base64_of_a_kind_that_nobody_knows_is_bytes() -> None:
    value, [blob] = encode_mime_value("application/vnd.foo", b64encode(PNG).decode())
    assert blob.data == PNG
    assert value == {"blob": blob.hash, "size": len(PNG), "media_type": "application/vnd.foo"}


BASE64_LIKE = st.lists(st.sampled_from("aBz09+/ =\n\r\té"), max_size=24).map("".join)
ENCODED = st.binary(max_size=1100).map(lambda raw: b64encode(raw).decode())


@given(
    st.sampled_from(["text/x", "x/y", "x/y+json", "x/y+xml", "application/json", "application/x-tex", "model/obj"])
    | st.from_regex(r"[a-z]{1,8}/[a-z.+-]{1,12}", fullmatch=True)
    | names,
    texts | BASE64_LIKE | ENCODED | st.tuples(BASE64_LIKE, ENCODED).map("".join),
)
def test_text_of_any_kind_that_is_not_registered_as_binary_is_given_back_to_the_byte(mime: str, text: str) -> None:
    manifest, blobs = build_manifest(DisplayOutput("o1", "display_data", {mime: text}, {}))
    decoded = decode_manifest(manifest, load_from(blobs))["data"][mime]
    assert decoded == text or (is_binary(mime) and decoded == "".join(text.split()))


@pytest.mark.parametrize(
    ("mime", "binary"),
    [
        ("image/png", True),
        ("IMAGE/JPEG; q=1", True),
        ("audio/wav", True),
        ("video/mp4", True),
        ("font/woff2", True),
        ("application/pdf", True),
        ("application/octet-stream", True),
        ("application/epub+zip", True),
        ("image/svg+xml", False),
        ("application/json", False),
        ("text/plain", False),
        ("chemical/x-smiles", False),
        ("imagery/png", False),
    ],
)
def test_what_is_registered_as_binary(mime: str, binary: bool) -> None:
    assert is_binary(mime) is binary


def test_lines_of_text_are_joined_but_a_json_list_stays_a_list() -> None:
    assert encode_mime_value("text/html", ["<b>\n", "</b>"]) == ("<b>\n</b>", [])
    assert encode_mime_value("text/html", []) == ("", [])
    assert encode_mime_value("application/json", ["a", "b"]) == ({"json": '["a","b"]'}, [])


def test_json_is_text_in_the_document_and_a_blob_of_its_own_media_type_when_big() -> None:
    spec = {"data": ["x" * 10] * 200}
    assert encode_mime_value("application/vnd.v+json", {"a": None}) == ({"json": '{"a":null}'}, [])
    value, [blob] = encode_mime_value("application/vnd.v+json", spec)
    assert isinstance(value, dict)
    assert value["media_type"] == "application/vnd.v+json"
    assert json.loads(blob.data) == spec
    long_string = "s" * 2000
    value, [blob] = encode_mime_value("application/json", long_string)
    assert decode_value(value, load_from([blob])) == long_string


def test_numbers_and_null_under_any_mime_type_survive_and_are_text_in_a_file_that_wants_text() -> None:
    assert encode_mime_value("application/json", 5) == ({"json": "5"}, [])
    manifest, blobs = build_manifest(DisplayOutput("o1", "display_data", {"text/plain": 5, "text/html": None}, {}))
    assert decode_manifest(manifest, load_from(blobs))["data"] == {"text/plain": "5", "text/html": "null"}


def test_traits_that_json_and_automerge_both_have_stay_native() -> None:
    for value in ("text", 7, -7, 2**53 - 1, 2.5, True, None):
        encoded, blobs = encode_trait("value", value)
        assert (encoded, type(encoded), blobs) == (value, type(value), [])


def test_an_infinity_is_a_native_float_alone_and_a_number_that_loads_everywhere_inside_json() -> None:
    assert encode_trait("max", math.inf) == (math.inf, [])
    value, _ = encode_trait("range", [-math.inf, math.inf, math.nan, None])
    assert value == {"json": "[-1e999,1e999,null,null]"}
    assert decode_value(value, dict[str, bytes]().__getitem__) == [-math.inf, math.inf, None, None]


def test_integers_beyond_javascripts_are_json_text() -> None:
    assert encode_trait("value", 2**53) == ({"json": "9007199254740992"}, [])
    assert encode_trait("value", -(2**80)) == ({"json": str(-(2**80))}, [])
    assert encode_trait("value", [10**5000]) == ({"json": "[1e999]"}, [])


def test_module_code_and_styles_of_a_widget_get_the_media_types_that_a_browser_needs() -> None:
    media_types = [encode_trait(name, "x" * 2000)[1][0].media_type for name in ("_esm", "_css", "value")]
    assert media_types == ["text/javascript", "text/css", "text/plain"]
    assert encode_trait("value", memoryview(b"\0\1"))[1] == [
        Blob(sha256(b"\0\1").hexdigest(), "application/octet-stream", b"\0\1")
    ]


def test_buffers_inside_a_composite_leave_no_key_in_a_map_and_null_in_a_list() -> None:
    value, blobs = encode_trait("data", {"x": {"shape": [2], "data": b"\1\2"}, "list": [b"", 3]})
    assert isinstance(value, dict)
    assert json.loads(value["json"]) == {"x": {"shape": [2]}, "list": [None, 3]}
    assert [(buffer["path"], buffer["size"]) for buffer in value["buffers"]] == [(["x", "data"], 2), (["list", 0], 0)]
    assert [blob.data for blob in blobs] == [b"\1\2", b""]


def test_buffers_with_paths_that_lead_nowhere_are_skipped_by_a_reader() -> None:
    value, blobs = encode_trait("data", [b"\1"])
    assert isinstance(value, dict)
    for path in ([5], ["key"], [], [0, 0], [-1], [True], None, ["x"] * 1000):
        value["buffers"][0]["path"] = path
        assert decode_value(value, load_from(blobs)) == [None]


@pytest.mark.parametrize("value", [{}, {"json": 5}, {"json": "{"}, {"blob": "../x"}, {"json": "[" * 100_000}])
def test_what_is_no_value_is_refused_by_a_reader(value: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        decode_value(value, dict[str, bytes]().__getitem__)


def test_lone_surrogates_become_replacement_characters_and_pairs_become_one_character() -> None:
    assert encode_text("a\ud800b\ud83d\ude00", "text/plain") == ("a\ufffdb😀", [])
    assert encode_trait("value", {"\udc00": ["\ud800"]}) == ({"json": '{"\ufffd":["\ufffd"]}'}, [])
    output = DisplayOutput("o1", "display_data", {"text/plain\ud800": "\ud800" * 2000}, {"k": "\ud800"}, "\ud800")
    manifest, _ = build_manifest(output)
    assert fits_the_document(manifest)
    assert fits_the_document(build_manifest(ErrorOutput("o1", "\ud800", "\ud800", ("\ud800",)))[0])


def nested(depth: int, leaf: object) -> object:
    for _ in range(depth):
        leaf = [leaf]
    return leaf


@pytest.mark.parametrize("depth", [65, 500, 100_000])
@pytest.mark.parametrize("leaf", [None, "\ud800", b"x"])
def test_json_deeper_than_64_levels_is_text(depth: int, leaf: object) -> None:
    value, blobs = encode_trait("value", nested(depth, leaf))
    assert isinstance(decode_value(value, load_from(blobs)), str)
    manifest, _ = build_manifest(DisplayOutput("o1", "display_data", {}, {"deep": nested(depth, leaf)}))
    assert "metadata" not in manifest


def test_json_of_64_levels_stays_structure() -> None:
    value, _ = encode_trait("value", nested(64, "leaf"))
    assert decode_value(value, dict[str, bytes]().__getitem__) == nested(64, "leaf")


def test_odd_keys_of_json_are_written_as_json_writes_them() -> None:
    assert encode_json({None: 1, True: 2, 5: 3}) == b'{"null":1,"true":2,"5":3}'


def test_keys_that_no_document_takes_are_left_out() -> None:
    [prepared], _ = prepare([SetCommState("m1", {"": 1, "x" * 256: 2, "ok": 3} | {f"k{n}": n for n in range(5000)})])
    assert isinstance(prepared, SetCommState)
    assert len(prepared.state) == 4096 - 2
    assert prepared.state["ok"] == 3


def test_a_media_type_that_could_break_a_header_is_not_stored() -> None:
    _, [blob] = encode_mime_value("text/html\r\nX-Evil: 1", "x" * 2000)
    assert blob.media_type == "text/plain"
    _, [blob] = encode_mime_value("Image/PNG; q=1", b64encode(PNG).decode())
    assert blob.media_type == "image/png"
    _, [blob] = encode_mime_value("a" * 200 + "+json", ["x" * 2000])
    assert blob.media_type == "application/json"


def test_a_value_beyond_the_limit_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_writing, "MAX_VALUE_BYTES", 2000)
    manifest, blobs = build_manifest(StreamOutput("o1", "stdout", ("é" * 1500,)))
    text = decode_manifest(manifest, load_from(blobs))["text"]
    assert text.endswith("[cut here: 3000 bytes in all]\n")
    assert len(text.encode()) <= 2000
    assert json.loads(manifest["metadata"]["json"]) == {"notebookd": {"truncated": True, "size": 3000}}

    data = {"image/png": b64encode(b"x" * 4000).decode(), "application/json": [1] * 2500, "text/plain": "fig"}
    manifest, blobs = build_manifest(DisplayOutput("o2", "display_data", data, {"width": 5}))
    decoded = decode_manifest(manifest, load_from(blobs))
    assert decoded["data"] == {"text/plain": "fig\n[too big, left out: image/png, application/json]"}
    assert decoded["metadata"] == {"width": 5, "notebookd": {"truncated": True, "size": 5001}}
    assert encode_trait("value", b"x" * 3000) == (None, [])

    [edit], _ = prepare([EditStream(CELL, "o1", 0, ("x" * 3000,))])
    assert isinstance(edit, EditSegments)
    assert edit.metadata == {"json": '{"notebookd":{"truncated":true,"size":3000}}'}


def test_an_endless_error_message_stays_a_bounded_string() -> None:
    manifest, _ = build_manifest(ErrorOutput("o1", "E", "é" * 100_000, ()))
    assert manifest["evalue"].endswith("[cut here: 200000 bytes in all]")
    assert fits_the_document(manifest)


def test_empty_metadata_and_absent_options_leave_no_keys() -> None:
    manifest, _ = build_manifest(DisplayOutput("o1", "display_data", {"text/plain": "1"}, {}))
    assert manifest == {"output_type": "display_data", "output_id": "o1", "data": {"text/plain": "1"}}


def test_prepare_replaces_values_and_passes_the_rest_in_order() -> None:
    output: Output = StreamOutput("o1", "stdout", ("a\n", ""))
    mutations: list[Mutation] = [
        ClearOutputs(CELL),
        AppendOutput(CELL, output),
        EditStream(CELL, "o1", 1, ("b" * 2000, "c"), {"k": 1}),
        ReplaceOutput(CELL, DisplayOutput("o2", "display_data", {"text/plain": "b" * 2000}, {})),
        OpenComm("m1", "jupyter.widget", "mod", "Model", 3, {"value": [1, b"x"], "description": ""}),
        SetCommState("m1", {"value": None}),
        SetExecution("e1", status="done"),
    ]
    prepared, blobs = prepare(mutations)
    reference = {"blob": sha256(b"b" * 2000).hexdigest(), "size": 2000, "media_type": "text/plain"}
    assert prepared[:4] == [
        ClearOutputs(CELL),
        AppendManifest(CELL, {"output_type": "stream", "output_id": "o1", "name": "stdout", "text": ["a\n", ""]}),
        EditSegments(CELL, "o1", 1, (reference, "c"), {"json": '{"k":1}'}),
        ReplaceManifest(CELL, {"output_type": "display_data", "output_id": "o2", "data": {"text/plain": reference}}),
    ]
    opened = prepared[4]
    assert isinstance(opened, OpenComm)
    assert decode_state(opened.state, load_from(blobs)) == {"value": [1, b"x"], "description": ""}
    assert prepared[5:] == mutations[5:]
    assert len(blobs) == 2, "the same text twice is one blob"


def test_raw_size_grows_with_what_has_to_be_encoded() -> None:
    text = "x" * 20_000
    sizes = [
        raw_size([]),
        raw_size([AddCell("c1"), SetQueue(None, ())]),
        raw_size([OpenComm("m1", "t", "m", "n", 1, {f"trait{n}": n for n in range(100)})]),
        raw_size([AppendOutput(CELL, DisplayOutput("o1", "display_data", {"text/plain": text}, {}))]),
        raw_size([EditStream(CELL, "o1", 0, (text, text))]),
        raw_size([AppendOutput(CELL, ErrorOutput("o1", "E", "", (text,) * 3))]),
        raw_size([AppendOutput(CELL, DisplayOutput("o1", "display_data", {"application/json": [1] * 1500}, {}))]),
        raw_size([SetCommState("m1", {"value": {"deep": [{"text": text, "data": memoryview(b"x" * 100_000)}]}})]),
    ]
    assert all(low < high for low, high in pairwise(sizes))
    assert 120_000 <= sizes[-1] < 125_000


@pytest.mark.parametrize(
    "value", ["x" * 10**6, [1] * 10**5, {f"{n}": n for n in range(10**5)}, [[1, 2]] * 10**5, nested(10**5, "x")]
)
def test_raw_size_stops_counting_when_it_is_much(value: object) -> None:
    assert raw_size([SetCommState("m1", {"value": value})] * 10_000) >= 256 * 1024


def test_attachments_are_read_back_as_a_file_has_them_and_what_no_reader_can_show_is_left_out() -> None:
    attachments = {"a.png": {"image/png": b64encode(PNG).decode()}, "note": {"text/plain": ["a\n", "b"]}}
    encoded, blobs = encode_attachments({**attachments, "odd": 5, "": {}})
    assert decode_attachments(encoded, load_from(blobs)) == {
        "a.png": attachments["a.png"],
        "note": {"text/plain": "a\nb"},
    }
    missing = {"blob": "f" * 64, "size": 1, "media_type": "image/png"}
    unusable = {"x": {"image/png": {"no": "value"}, "image/gif": missing}, "y": 7}
    assert decode_attachments(unusable, load_from(blobs)) == {"x": {}}


def test_hashes_of_blobs_are_found_at_any_depth() -> None:
    first, second = "a" * 64, "b" * 64
    value = {
        "cells": [{"outputs": [{"text": ["x", {"blob": first, "size": 1, "media_type": "text/plain"}]}]}],
        "state": {"value": {"json": "{}", "buffers": [{"path": ["x"], "blob": second}]}},
        "blob": "no hash",
    }
    assert sorted(blob_hashes(value)) == [first, second]
