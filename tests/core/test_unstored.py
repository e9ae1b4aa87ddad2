"""When the blob store refuses, no manifest names a blob, and what is lost says so."""

import json
from typing import Any

from sync.core.mutations import AddCell, AppendOutput, EditStream, OpenComm, ReplaceOutput, SetCommState, Target
from sync.core.outputs import DisplayOutput, ErrorOutput, Output, StreamOutput
from sync.core.unstored import without_blobs
from sync.core.value_reading import blob_hashes
from sync.core.values import prepare

CELL = Target("cell", "a")
LONG = "x" * 5_000


def stored(*mutations: Any) -> list[Any]:
    prepared, blobs = prepare(mutations)
    assert blobs, "or the test shows nothing"
    made = without_blobs(prepared, "No space left on device")
    for mutation in made:
        for name in mutation.__slots__:
            assert not list(blob_hashes([getattr(mutation, name)]))
    return made


def shown(output: Output) -> tuple[dict[str, Any], Any]:
    """The manifest, and what its metadata say of notebookd."""
    [mutation] = stored(AppendOutput(CELL, output))
    return mutation.manifest, json.loads(mutation.manifest["metadata"]["json"])["notebookd"]


def test_a_picture_leaves_a_line_and_what_was_small_stays() -> None:
    data = {"image/png": "aGVsbG8=", "text/plain": "<Figure>"}
    manifest, mark = shown(DisplayOutput("o", "display_data", data, {"isolated": True}, None, None))

    assert list(manifest["data"]) == ["text/plain"]
    assert manifest["data"]["text/plain"] == (
        "<Figure>\n[notebookd: 5 bytes could not be stored: No space left on device]"
    )
    assert mark == {"truncated": True, "size": 5}
    assert json.loads(manifest["metadata"]["json"])["isolated"] is True


def test_long_text_leaves_a_line_in_its_place() -> None:
    manifest, mark = shown(StreamOutput("o", "stdout", ("short\n", LONG)))

    assert manifest["text"][0] == "short\n"
    assert manifest["text"][1].endswith("No space left on device]\n")
    assert mark["size"] == len(LONG)
    [edit] = stored(EditStream(CELL, "o", 1, (LONG,)))
    assert "could not be stored" in edit.segments[0]
    assert json.loads(edit.metadata["json"])["notebookd"]["size"] == len(LONG)


def test_a_long_traceback_leaves_a_line() -> None:
    manifest, _ = shown(ErrorOutput("o", "ValueError", "no", (LONG,)))

    [line] = json.loads(manifest["traceback"]["json"])
    assert "could not be stored" in line


def test_an_updated_display_is_treated_as_a_new_one() -> None:
    output = DisplayOutput("o", "display_data", {"text/html": LONG}, {}, "d", None)
    [mutation] = stored(ReplaceOutput(CELL, output))

    assert "could not be stored" in mutation.manifest["data"]["text/plain"]


def test_a_trait_that_can_not_be_stored_keeps_its_value() -> None:
    opened, changed = stored(
        OpenComm("c", "jupyter.widget", "m", "n", 0, {"value": 1, "bytes": b"\x00"}),
        SetCommState("c", {"value": 2, "text": LONG, "nested": {"deep": [b"\x00"]}}),
    )

    assert opened.state == {"value": 1}
    assert changed.state == {"value": 2}


def test_what_names_no_blob_passes_unchanged() -> None:
    output = DisplayOutput("o", "display_data", {"text/plain": "hello"}, {}, None, None)
    prepared, _ = prepare([AddCell("a"), AppendOutput(CELL, output)])

    assert without_blobs(prepared, "full") == prepared
