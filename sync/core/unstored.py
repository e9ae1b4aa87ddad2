"""What a commit writes when the blob store refuses: outputs say that they are lost, in place of naming blobs."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sync.core.mutations import OpenComm, SetCommState
from sync.core.prepared import AppendManifest, EditSegments, Manifest, PreparedMutation, ReplaceManifest, Value

# Of what the disk said: it may hold a path of any length.
MAX_REASON_CHARS = 200


def without_blobs(mutations: Sequence[PreparedMutation], reason: str) -> list[PreparedMutation]:
    """The mutations without any value that names a blob.

    An output loses such values and says so as a truncated one does, in its metadata and by a visible line. A trait is left
    out: it keeps its old value, or none.

    Args:
        mutations: what was prepared.
        reason: what the disk said.
    """
    return [_without(mutation, reason[:MAX_REASON_CHARS]) for mutation in mutations]


def _without(mutation: PreparedMutation, reason: str) -> PreparedMutation:
    match mutation:
        case AppendManifest() | ReplaceManifest():
            return replace(mutation, manifest=_manifest(mutation.manifest, reason))
        case EditSegments(segments=segments, metadata=metadata):
            lost = sum(_blob_bytes(segment) for segment in segments)
            kept = tuple(_text(segment, reason) for segment in segments)
            return replace(mutation, segments=kept, metadata=_marked(metadata, lost))
        case OpenComm() | SetCommState():
            return replace(mutation, state={k: v for k, v in mutation.state.items() if not _names_blob(v)})
        case _:
            return mutation


def _manifest(manifest: Manifest, reason: str) -> Manifest:
    made = dict(manifest)
    lost = 0
    match manifest["output_type"]:
        case "stream":
            lost = sum(_blob_bytes(segment) for segment in manifest["text"])
            made["text"] = [_text(segment, reason) for segment in manifest["text"]]
        case "error":
            lost = _blob_bytes(manifest["traceback"])
            if lost:
                made["traceback"] = {"json": json.dumps([_note(lost, reason)])}
        case _:
            data = manifest["data"]
            lost = sum(_blob_bytes(value) for value in data.values())
            if lost:
                made["data"] = {mime: value for mime, value in data.items() if not _names_blob(value)}
                shown = made["data"].get("text/plain")
                note = _note(lost, reason)
                made["data"]["text/plain"] = f"{shown}\n{note}" if isinstance(shown, str) else note
    metadata = _marked(manifest.get("metadata"), lost)
    if metadata is not None:
        made["metadata"] = metadata
    else:
        made.pop("metadata", None)
    return made


def _text(segment: Value, reason: str) -> Value:
    return f"{_note(_blob_bytes(segment), reason)}\n" if _names_blob(segment) else segment


def _note(size: int, reason: str) -> str:
    return f"[notebookd: {size} bytes could not be stored: {reason}]"


def _marked(metadata: Value, lost: int) -> Value:
    """Metadata that say what was lost, if something was."""
    kept = None if _names_blob(metadata) else metadata
    if not lost:
        return kept
    given = json.loads(kept["json"]) if isinstance(kept, dict) and "json" in kept else {}
    return {"json": json.dumps({**given, "notebookd": {"truncated": True, "size": lost}})}


def _names_blob(value: Value) -> bool:
    return isinstance(value, dict) and ("blob" in value or "buffers" in value)


def _blob_bytes(value: Value) -> int:
    """Bytes of all blobs that a value names."""
    if not isinstance(value, dict):
        return 0
    parts: list[dict[str, Any]] = [value, *value.get("buffers", ())]
    return sum(int(part["size"]) for part in parts if "blob" in part)
