"""Manifests and traits as a program reads them, with and without their blobs."""

from collections.abc import Mapping
from typing import Any

from sync.client.blob_refs import BlobRef, decode_trait
from sync.client.outputs import Output, decode_output, missing_blobs
from sync.core.outputs import DisplayOutput, ErrorOutput, StreamOutput
from sync.core.value_writing import Encoder
from sync.core.values import build_manifest


async def nothing(blob: str) -> bytes:
    return blob.encode()


def decode(output: Any, *, loaded: bool = True) -> Output:
    manifest, blobs = build_manifest(output)
    return decode_output(manifest, {blob.hash: blob.data for blob in blobs} if loaded else {}, nothing)


def test_a_stream_is_its_text_however_it_is_cut() -> None:
    output = decode(StreamOutput("o", "stderr", ("a\n", "x" * 2000 + "\n", "b")))

    assert output.text == "a\n" + "x" * 2000 + "\nb"
    assert (output.output_type, output.name, output.output_id, output.unloaded) == ("stream", "stderr", "o", ())


def test_a_display_has_text_json_and_bytes() -> None:
    data = {"text/plain": "<Figure>", "image/png": "iVBORw0KGgo=", "application/json": {"a": [1]}}
    output = decode(DisplayOutput("o", "display_data", data, {"width": 3}, display_id="d"))

    assert output.data == {"text/plain": "<Figure>", "image/png": b"\x89PNG\r\n\x1a\n", "application/json": {"a": [1]}}
    assert (output.text, output.metadata, output.display_id) == ("<Figure>", {"width": 3}, "d")


def test_an_error_has_its_traceback_as_lines_and_as_text() -> None:
    output = decode(ErrorOutput("o", "ValueError", "bad", ("line 1", "line 2" * 500)))

    assert (output.ename, output.evalue, output.traceback) == ("ValueError", "bad", ("line 1", "line 2" * 500))
    assert output.text == "line 1\n" + "line 2" * 500


async def test_what_is_not_loaded_says_where_it_is() -> None:
    text = "x" * 2000
    output = decode(DisplayOutput("o", "execute_result", {"text/plain": text, "text/html": "<b>"}, {}), loaded=False)

    reference = output.data["text/plain"]
    assert reference == BlobRef(reference.hash, 2000, "text/plain", nothing)
    assert (output.data["text/html"], output.text, output.unloaded) == ("<b>", "", (reference,))
    assert await reference.read() == reference.hash.encode()


def test_unloaded_parts_of_streams_and_errors_are_left_out_and_listed() -> None:
    stream = decode(StreamOutput("o", "stdout", ("a\n", "x" * 2000 + "\n", "b")), loaded=False)
    error = decode(ErrorOutput("o", "E", "bad", ("y" * 2000,)), loaded=False)

    assert (stream.text, [one.size for one in stream.unloaded]) == ("a\nb", [2001])
    assert (error.text, error.traceback, len(error.unloaded)) == ("E: bad", (), 1)


def test_missing_blobs_are_those_that_are_named_and_not_at_hand() -> None:
    manifest, blobs = build_manifest(StreamOutput("o", "stdout", ("x" * 2000, "y" * 3000)))

    assert missing_blobs([manifest], {blobs[0].hash: b""}) == {blobs[1].hash}


def test_nonsense_reads_as_empty() -> None:
    nonsense: list[dict[str, Any]] = [
        {},
        {"output_type": 1, "data": 2, "metadata": 3, "display_id": 4, "execution_count": True},
        {"output_type": "stream", "text": [{"blob": "no hash"}, 5, None]},
        {"output_type": "error", "traceback": {"json": "{"}, "ename": 1},
        {"output_type": "display_data", "data": {"text/plain": {"json": "["}}},
    ]
    for manifest in nonsense:
        output = decode_output(manifest, {}, nothing)
        assert (output.text or output.evalue or "") in ("", ": ")
        assert output.unloaded == ()


def test_a_trait_has_its_bytes_where_they_are_here_and_says_where_the_others_are() -> None:
    encoder = Encoder()
    many = [f"IPY_MODEL_{number}" for number in range(200)]
    value = encoder.traits({"n": 3, "none": None, "raw": b"ab", "many": many, "mixed": {"a": [b"ab", b"cd"], "b": 1}})
    blobs = {blob.hash: blob.data for blob in encoder.blobs}

    def decoded(loaded: Mapping[str, bytes]) -> dict[str, Any]:
        return {name: decode_trait(trait, loaded, nothing) for name, trait in value.items()}

    whole = {"n": 3, "none": None, "raw": b"ab", "many": many, "mixed": {"a": [b"ab", b"cd"], "b": 1}}
    assert decoded(blobs) == whole
    [ab] = [blob for blob, data in blobs.items() if data == b"ab"]
    some = decoded({ab: b"ab"})
    assert (some["n"], some["none"], some["raw"]) == (3, None, b"ab")
    assert isinstance(some["many"], BlobRef)
    assert (some["many"].media_type, some["many"].size) == ("application/json", len(blobs[some["many"].hash]))
    assert some["mixed"]["a"][0] == b"ab"
    assert isinstance(some["mixed"]["a"][1], BlobRef)
    assert isinstance(decoded({})["raw"], BlobRef)


def test_a_trait_that_has_no_known_shape_reads_as_none() -> None:
    for nonsense in ({}, {"json": "["}, {"blob": "x"}, {"json": 3, "buffers": [{"path": ["a"]}]}):
        assert decode_trait(nonsense, {}, nothing) is None
