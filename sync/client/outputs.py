"""Outputs as a program reads them: manifests whose values are what they stand for, or say where to get it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sync.client.blob_refs import BlobRef, ReadBlob, blob_refs
from sync.core.value_reading import InvalidValue, blob_hashes, decode_value


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a cell.

    Attributes:
        output_type: stream, display_data, execute_result or error.
        data: by mime type: text, bytes for binary types, parsed JSON for JSON types; a `BlobRef` where that was not loaded.
        text: what a plain terminal would show: a stream's text, the `text/plain` of data, an error's traceback.
        metadata: of the output; `{"notebookd": {"truncated": True, "size": n}}` where it was too big to be kept.
        display_id: by which the kernel may replace it.
        ename: an error's class; None for the others.
        evalue: an error's message.
        traceback: an error's lines, with terminal colours.
        name: stdout or stderr, for a stream.
        output_id: its id in the document.
        execution_count: of an execute_result.
        unloaded: blobs that parts of this output are in and that were not loaded; what they hold is left out of `text`,
            `metadata` and `traceback`.
    """

    output_type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    display_id: str | None = None
    ename: str | None = None
    evalue: str | None = None
    traceback: tuple[str, ...] = ()
    name: str | None = None
    output_id: str = ""
    execution_count: int | None = None
    unloaded: tuple[BlobRef, ...] = ()


class _NotLoaded(Exception):
    """A blob that `decode_value` asks for is not here."""


def missing_blobs(manifests: Iterable[Mapping[str, Any]], loaded: Mapping[str, bytes]) -> set[str]:
    """The hashes of blobs that these manifests name and that are not in `loaded`."""
    return {blob for manifest in manifests for blob in blob_hashes(manifest) if blob not in loaded}


def decode_output(manifest: Mapping[str, Any], loaded: Mapping[str, bytes], read: ReadBlob) -> Output:
    """An output from its manifest; what is missing or ill-typed reads as empty.

    Args:
        manifest: as plain Python, from the runtime document.
        loaded: bytes of blobs by their hash.
        read: gets the other ones.
    """
    reader = _Values(loaded, read)
    output_type = manifest.get("output_type")
    output_id = manifest.get("output_id")
    metadata = reader.decode(manifest.get("metadata"), {})
    data: dict[str, Any] = {}
    traceback: tuple[str, ...] = ()
    text = ename = evalue = None
    match output_type:
        case "stream":
            segments = manifest.get("text")
            text = "".join(_text(reader.decode(segment, "")) for segment in segments or () if segment is not None)
        case "error":
            lines = reader.decode(manifest.get("traceback"), [])
            traceback = tuple(map(_text, lines if isinstance(lines, list) else [lines]))
            ename, evalue = _text(manifest.get("ename", "")), _text(manifest.get("evalue", ""))
            text = "\n".join(traceback) or f"{ename}: {evalue}"
        case _:
            bundle = manifest.get("data")
            if isinstance(bundle, Mapping):
                data = {mime: reader.decode(value, reader.reference(value)) for mime, value in bundle.items()}
            text = _text(data.get("text/plain", ""))
    return Output(
        output_type=_text(output_type),
        data=data,
        text=text,
        metadata=metadata if isinstance(metadata, Mapping) else {},
        display_id=_optional(manifest.get("display_id"), str),
        ename=ename,
        evalue=evalue,
        traceback=traceback,
        name=_optional(manifest.get("name"), str),
        output_id=_text(output_id),
        execution_count=_optional(manifest.get("execution_count"), int),
        unloaded=tuple(reader.unloaded.values()),
    )


class _Values:
    """Decodes the values of one manifest and keeps account of what it could not."""

    def __init__(self, loaded: Mapping[str, bytes], read: ReadBlob) -> None:
        self._loaded = loaded
        self._read = read
        self.unloaded: dict[str, BlobRef] = {}

    def decode(self, value: Any, default: Any) -> Any:
        """What the value stands for; `default` where that is not here, or nothing."""
        if value is None:
            return default
        try:
            return decode_value(value, self._load)
        except _NotLoaded:
            for reference in blob_refs(value, self._read):
                if reference.hash not in self._loaded:
                    self.unloaded[reference.hash] = reference
            return default
        except InvalidValue:
            return default

    def reference(self, value: Any) -> BlobRef | None:
        """The blob that is the whole value, if it is one."""
        return next(blob_refs(value, self._read), None)

    def _load(self, blob: str) -> bytes:
        if blob not in self._loaded:
            raise _NotLoaded
        return self._loaded[blob]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def _optional(value: Any, kind: type) -> Any:
    return value if isinstance(value, kind) and not isinstance(value, bool) else None
