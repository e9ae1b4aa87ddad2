"""Values and manifests of the documents -> what they stand for (docs/wire.md, "Reading a blob").

For readers: the Python client, the file saver, tests. The daemon alone writes the runtime document, but attachments
are in the notebook document, which any editor writes, so nothing here trusts a shape.
"""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from sync.core.json_text import encode_json, flat_text
from sync.core.limits import MAX_DEPTH
from sync.core.media_types import BYTES, media_kind
from sync.core.prepared import Value

# Gives the bytes of the blob with this hash, or raises LookupError if there is none; what it raises passes through.
Load: TypeAlias = Callable[[str], bytes]

_HASH = re.compile(r"[0-9a-f]{64}")
_JSON_IN_NOTEBOOKS = re.compile(r"application/(.*\+)?json")


class InvalidValue(ValueError):
    """A map that is neither a reference to a blob nor JSON text, or whose JSON does not parse."""


def decode_value(value: Value, load: Load) -> Any:
    """What the value stands for: text, bytes, a number, or what its JSON holds, with its buffers put back as bytes.

    Raises:
        InvalidValue: The value has no known shape.
    """
    if not isinstance(value, Mapping):
        return value
    decoded: Any
    text = value.get("json")
    if isinstance(text, str):
        decoded = _parse(text)
    else:
        reference = blob_hash(value)
        if reference is None:
            raise InvalidValue("neither a blob nor JSON text")
        data = load(reference)
        media_type = value.get("media_type")
        match media_kind(media_type if isinstance(media_type, str) else BYTES):
            case "json":
                decoded = _parse(data)
            case "text":
                decoded = data.decode(errors="replace")
            case "bytes":
                decoded = data
    buffers = value.get("buffers")
    return _with_buffers(decoded, buffers, load) if isinstance(buffers, list) else decoded


def decode_state(traits: Mapping[str, Value], load: Load) -> dict[str, Any]:
    """A comm's state as its model has it, bytes where the kernel sent buffers."""
    return {name: decode_value(value, load) for name, value in traits.items()}


def decode_attachments(attachments: Mapping[str, Any], load: Load) -> dict[str, dict[str, Any]]:
    """A cell's attachments as a notebook file has them; what no reader could show is left out.

    That is what has no known shape, and what names a blob that does not exist: a peer may write any hash.
    """
    decoded: dict[str, dict[str, Any]] = {}
    for name, bundle in attachments.items():
        if isinstance(bundle, Mapping):
            decoded[name] = {}
            for mime, value in bundle.items():
                try:
                    decoded[name][mime] = _notebook_value(mime, decode_value(value, load))
                except (InvalidValue, LookupError):
                    continue
    return decoded


def decode_manifest(manifest: Mapping[str, Any], load: Load) -> dict[str, Any]:
    """The output as a notebook file has it (nbformat 4), binary values as base64 text.

    `output_id`, `display_id` and a stream's metadata have no place in that format and are left out.

    Raises:
        InvalidValue: It is no manifest.
        LookupError: A blob that it names does not exist.
    """
    output_type = manifest.get("output_type")
    if output_type == "stream":
        segments = [decode_value(segment, load) for segment in manifest.get("text", [])]
        return {
            "output_type": "stream",
            "name": str(manifest.get("name", "stdout")),
            "text": "".join(map(_text, segments)),
        }
    if output_type == "error":
        traceback = decode_value(manifest.get("traceback", []), load)
        return {
            "output_type": "error",
            "ename": _text(manifest.get("ename", "")),
            "evalue": _text(manifest.get("evalue", "")),
            "traceback": [_text(line) for line in traceback] if isinstance(traceback, list) else [_text(traceback)],
        }
    if output_type not in ("display_data", "execute_result"):
        raise InvalidValue(f"no output type: {output_type!r}")
    data, metadata = manifest.get("data"), decode_value(manifest.get("metadata"), load)
    output: dict[str, Any] = {
        "output_type": output_type,
        "data": {
            mime: _notebook_value(mime, decode_value(value, load))
            for mime, value in (data.items() if isinstance(data, Mapping) else ())
        },
        "metadata": metadata if isinstance(metadata, dict) else {},
    }
    if output_type == "execute_result":
        output["execution_count"] = manifest.get("execution_count")
    return output


def blob_hashes(value: object) -> Iterator[str]:
    """The hashes of all blobs that a value, a manifest, or any map or list of them names; repeated as they occur."""
    pending: list[object] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            reference = blob_hash(item)
            if reference is not None:
                yield reference
            pending.extend(item.values())
        elif isinstance(item, (list, tuple)):
            pending.extend(item)


def blob_hash(value: Mapping[str, Any]) -> str | None:
    """The hash of the blob that a value is in, None if it is in none; buffers of a composite are others."""
    reference = value.get("blob")
    return reference if isinstance(reference, str) and _HASH.fullmatch(reference) else None


def _parse(text: str | bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):  # not only its own errors: invalid UTF-8 is a UnicodeDecodeError
        pass
    try:
        return json.loads(text)  # slower, but it reads what msgspec refuses: 1e999, surrogates
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"JSON that does not parse: {error}") from error


def _with_buffers(decoded: Any, buffers: Iterable[Any], load: Load) -> Any:
    """`decoded` with the bytes at their paths; a path that leads nowhere is skipped."""
    for buffer in buffers:
        if not isinstance(buffer, Mapping):
            continue
        path, reference = buffer.get("path"), blob_hash(buffer)
        if not isinstance(path, Sequence) or not 0 < len(path) <= MAX_DEPTH or reference is None:
            continue
        container = decoded
        for step in path[:-1]:
            container = _child(container, step)
        last = path[-1]
        if (isinstance(container, dict) and isinstance(last, str)) or _child(container, last) is not _NOWHERE:
            container[last] = load(reference)
    return decoded


_NOWHERE = object()


def _child(container: Any, step: object) -> Any:
    if isinstance(container, dict) and isinstance(step, str):
        return container.get(step, _NOWHERE)
    if isinstance(container, list) and type(step) is int and 0 <= step < len(container):
        return container[step]
    return _NOWHERE


def _notebook_value(mime: str, decoded: Any) -> Any:
    """A mime value as a notebook file has it: text, base64 text, or JSON where the format allows it."""
    if isinstance(decoded, bytes):
        return b64encode(decoded).decode()
    if isinstance(decoded, str) or _JSON_IN_NOTEBOOKS.fullmatch(mime):
        return decoded
    return _text(decoded)


def _text(decoded: Any) -> str:
    if isinstance(decoded, str):
        return decoded
    if isinstance(decoded, bytes):
        return decoded.decode(errors="replace")
    try:
        return encode_json(decoded).decode()
    except ValueError:
        return flat_text(decoded)
