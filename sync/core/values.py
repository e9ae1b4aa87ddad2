"""Values and manifests (docs/wire.md, "Values, manifests"): the front door of their three modules.

Here: outputs -> manifests, and a commit's mutations -> mutations whose values are ready for the document. Single values
are encoded in `value_writing.py` and read back in `value_reading.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from sync.core.json_text import clean, rough_size, utf8
from sync.core.limits import INLINE_LIMIT
from sync.core.mutations import AppendOutput, EditStream, Mutation, OpenComm, ReplaceOutput, SetCommState
from sync.core.outputs import DisplayOutput, ErrorOutput, Output, StreamOutput
from sync.core.prepared import AppendManifest, EditSegments, Manifest, PreparedMutation, ReplaceManifest, Value
from sync.core.value_reading import (
    InvalidValue,
    Load,
    blob_hashes,
    decode_attachments,
    decode_manifest,
    decode_state,
    decode_value,
)
from sync.core.value_writing import (
    Blob,
    Encoder,
    distinct,
    encode_attachments,
    encode_mime_value,
    encode_text,
    encode_trait,
    usable_items,
)

__all__ = [
    "Blob",
    "InvalidValue",
    "Load",
    "blob_hashes",
    "build_manifest",
    "decode_attachments",
    "decode_manifest",
    "decode_state",
    "decode_value",
    "encode_attachments",
    "encode_mime_value",
    "encode_text",
    "encode_trait",
    "prepare",
    "raw_size",
]

# `ename` and `evalue` are plain strings on the wire, so they can't go to the blob store. A message of this length is
# nothing that a person reads, and the traceback, which has no such limit, ends with it.
MAX_ERROR_BYTES = 64 * 1024

# `raw_size` counts no further: whoever asks wants to know whether it is much. To count this far takes 1 ms at most.
ENOUGH = 256 * 1024

_SMALL = 64  # about what a mutation without values costs to write


def build_manifest(output: Output) -> tuple[Manifest, list[Blob]]:
    """The manifest of one output, and the blobs that it names.

    An output with a value beyond `MAX_VALUE_BYTES` says so in its metadata, as `{"notebookd": {"truncated": true,
    "size": n}}`, and by a last visible line.
    """
    encoder = Encoder()
    return _manifest(encoder, output), encoder.blobs


def prepare(mutations: Sequence[Mutation]) -> tuple[list[PreparedMutation], list[Blob]]:
    """Encodes the values in `mutations`; all others pass unchanged, in the same order.

    Args:
        mutations: What one commit applies. 1 to 3 us each while values are short; about 3 ms a MiB else, then better
            done in a thread (`raw_size`).

    Returns:
        What the runtime schema applies, and the blobs, each once, that must be stored before.
    """
    encoder = Encoder()
    prepared: list[PreparedMutation] = []
    for mutation in mutations:
        encode = _ENCODERS.get(type(mutation))
        prepared.append(cast("PreparedMutation", mutation) if encode is None else encode(encoder, mutation))
    return prepared, distinct(encoder.blobs) if encoder.blobs else []


def raw_size(mutations: Sequence[Mutation]) -> int:
    """The work of `prepare`, in bytes of text that would take as long; stops counting at `ENOUGH`."""
    size = 0
    for mutation in mutations:
        match mutation:
            case EditStream(segments=segments):
                size += sum(map(len, segments))
            case AppendOutput(output=output) | ReplaceOutput(output=output):
                size += _output_size(output, ENOUGH - size)
            case OpenComm(state=state) | SetCommState(state=state):
                size += rough_size(state, ENOUGH - size)
            case _:
                pass
        size += _SMALL
        if size >= ENOUGH:
            break
    return size


def _output_size(output: Output, enough: int) -> int:
    match output:
        case StreamOutput(segments=segments):
            return sum(map(len, segments))
        case DisplayOutput(data=data, metadata=metadata):
            return rough_size(data, enough) + (rough_size(metadata, enough) if metadata else 0)
        case ErrorOutput(evalue=evalue, traceback=traceback):
            return len(evalue) + sum(map(len, traceback))


def _manifest(encoder: Encoder, output: Output) -> Manifest:
    match output:
        case StreamOutput():
            return _stream(encoder, output)
        case DisplayOutput():
            return _display(encoder, output)
        case ErrorOutput():
            return {
                "output_type": "error",
                "output_id": output.output_id,
                "ename": _error_text(output.ename),
                "evalue": _error_text(output.evalue),
                "traceback": encoder.composite(output.traceback) or {"json": "[]"},
            }


def _stream(encoder: Encoder, output: StreamOutput) -> Manifest:
    encoder.cut = 0
    manifest: Manifest = {
        "output_type": "stream",
        "output_id": output.output_id,
        "name": output.name,
        "text": [encoder.text(segment) for segment in output.segments],
    }
    _add_metadata(encoder, manifest, output.metadata)
    return manifest


def _display(encoder: Encoder, output: DisplayOutput) -> Manifest:
    encoder.cut = 0
    data: dict[str, Value] = {}
    left_out: list[str] = []
    for mime, raw in usable_items(output.data):
        value = encoder.mime_value(mime, raw)
        if value is None:  # no mime value is null but one that is too big to be kept
            left_out.append(mime)
        else:
            data[mime] = value
    if left_out:
        note = f"[too big, left out: {', '.join(left_out)}]"
        text = data.get("text/plain")
        data["text/plain"] = f"{text}\n{note}" if isinstance(text, str) else note
    manifest: Manifest = {"output_type": output.output_type, "output_id": output.output_id, "data": data}
    _add_metadata(encoder, manifest, output.metadata)
    if output.display_id is not None and len(output.display_id) <= INLINE_LIMIT:
        manifest["display_id"] = clean(output.display_id)
    if output.execution_count is not None:
        manifest["execution_count"] = output.execution_count
    return manifest


def _add_metadata(encoder: Encoder, manifest: Manifest, metadata: Any) -> None:
    value = _metadata(encoder, metadata)
    if value is not None:
        manifest["metadata"] = value


def _metadata(encoder: Encoder, metadata: Any) -> Value:
    """The metadata as a value, with the mark of what was cut since `encoder.cut` was last 0; None if there is none."""
    value = encoder.composite(metadata) if metadata else None
    if value is not None and not isinstance(value, dict):  # nested too deeply: metadata are a map or nothing
        value = None
    if encoder.cut:
        mark = {"truncated": True, "size": encoder.cut}
        kept = {} if value is None else metadata
        value = encoder.composite({**kept, "notebookd": mark})
    return value


def _error_text(text: str) -> str:
    text, data = utf8(text)
    if len(data) <= MAX_ERROR_BYTES:
        return text
    head = data[:MAX_ERROR_BYTES].decode(errors="ignore")
    return f"{head}\n[cut here: {len(data)} bytes in all]"


def _append(encoder: Encoder, mutation: AppendOutput) -> PreparedMutation:
    return AppendManifest(mutation.target, _manifest(encoder, mutation.output))


def _replace(encoder: Encoder, mutation: ReplaceOutput) -> PreparedMutation:
    return ReplaceManifest(mutation.target, _manifest(encoder, mutation.output))


def _edit_stream(encoder: Encoder, mutation: EditStream) -> PreparedMutation:
    encoder.cut = 0
    segments = tuple([encoder.text(segment) for segment in mutation.segments])
    metadata = _metadata(encoder, mutation.metadata) if mutation.metadata or encoder.cut else None
    return EditSegments(mutation.target, mutation.output_id, mutation.first, segments, metadata)


def _open_comm(encoder: Encoder, mutation: OpenComm) -> PreparedMutation:
    return OpenComm(
        mutation.comm_id,
        mutation.target_name,
        mutation.model_module,
        mutation.model_name,
        mutation.order,
        encoder.traits(mutation.state),
    )


def _set_comm_state(encoder: Encoder, mutation: SetCommState) -> PreparedMutation:
    return SetCommState(mutation.comm_id, encoder.traits(mutation.state))


_Encode: TypeAlias = Callable[[Encoder, Any], PreparedMutation]

_ENCODERS: dict[type[Mutation], _Encode] = {
    AppendOutput: _append,
    ReplaceOutput: _replace,
    EditStream: _edit_stream,
    OpenComm: _open_comm,
    SetCommState: _set_comm_state,
}
