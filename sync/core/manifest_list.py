"""One list of manifests in a runtime document: a cell's outputs, a comm's, or the kernel log.

It knows what is where, so that neither an output more nor a line more of a stream needs a look into the document. A
manifest changes by `put` at its index, which costs the same for ever (6 us a commit). Delete and insert do not: what a
list held at one place makes inserts there slower (100 us after 10 000 such pairs). Only the front is deleted, by `trim`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sync.core.binding import ObjId, Transaction
from sync.core.limits import MAX_DOCUMENT_OPS
from sync.core.plain import LIST, MAP, append_values, put_map, put_value, read_found, read_plain
from sync.core.prepared import Manifest, Value


@dataclass(slots=True)
class _Stream:
    """A stream's manifest: its list of segments and, once there is one, its metadata with the writes they took."""

    manifest: ObjId
    text: ObjId = b""
    segments: int = 0
    metadata: ObjId = b""
    metadata_keys: frozenset[str] = frozenset()
    metadata_writes: int = 0


@dataclass(slots=True)
class ManifestList:
    """A list of manifests, from when it was empty on. Where an output_id comes twice, the later one is meant."""

    obj: ObjId
    rotate_after: int
    count: int = 0
    _trimmed: int = 0
    _indexes: dict[str, int] = field(default_factory=dict)
    _streams: dict[str, _Stream] = field(default_factory=dict)

    def append(self, tx: Transaction, manifest: Manifest) -> None:
        """Adds a manifest at the end."""
        self._indexes[manifest["output_id"]] = self._trimmed + self.count
        self._write(tx, tx.insert_object(self.obj, self.count, MAP), manifest)
        self.count += 1

    def replace(self, tx: Transaction, manifest: Manifest) -> bool:
        """Puts a manifest where the one with its output_id is; False if there is none."""
        index = self._indexes.get(manifest["output_id"], -1) - self._trimmed
        if index < 0:
            return False
        self._write(tx, tx.put_object(self.obj, index, MAP), manifest)
        return True

    def edit_segments(
        self, tx: Transaction, output_id: str, first: int, segments: Sequence[Value], metadata: Value
    ) -> bool:
        """Makes `segments` of a stream's text from `first` on; False if there is no such stream.

        Appending, and replacing the last one, cost the same however long the text is. Metadata None: as they are.

        Raises:
            ValueError: `first` is beyond the segments that are there, a bug of the caller.
        """
        stream = self._streams.get(output_id)
        if stream is None or self._indexes[output_id] < self._trimmed:
            return False
        if first > stream.segments:
            raise ValueError(f"no segment {first} in a text of {stream.segments}")
        if first == 0 and stream.segments > 1:
            self._rewrite(tx, output_id, stream.manifest, segments)
            stream = self._streams[output_id]
        else:
            if first < stream.segments and segments:
                put_value(tx, stream.text, first, segments[0])
                first, segments = first + 1, segments[1:]
            while stream.segments > first:  # shorter than before: the reducer begins at 0 then, and this is not reached
                stream.segments -= 1
                tx.delete(stream.text, stream.segments)
            append_values(tx, stream.text, segments, first)
            stream.segments += len(segments)
        if isinstance(metadata, dict):
            self._set_metadata(tx, stream, metadata)
        return True

    def trim(self, tx: Transaction, keep: int) -> bool:
        """Drops what is before the last `keep` outputs; False if that needs a new list by now."""
        excess = self.count - keep
        if self._trimmed + max(0, excess) > self.rotate_after:
            return False
        for _ in range(excess):
            tx.delete(self.obj, 0)
            self._trimmed += 1
            self.count -= 1
        return True

    def last(self, tx: Transaction, count: int) -> list[Manifest]:
        """The last `count` manifests, read from the document."""
        start = max(0, self.count - count)
        return [
            read_plain(tx, found[1], max_values=MAX_DOCUMENT_OPS)
            for index in range(start, self.count)
            if (found := tx.get(self.obj, index))
        ]

    def _write(self, tx: Transaction, obj: ObjId, manifest: Manifest) -> None:
        output_id = manifest["output_id"]
        if manifest["output_type"] != "stream":
            self._streams.pop(output_id, None)
            put_map(tx, obj, manifest)
            return
        stream = self._streams[output_id] = _Stream(obj)
        for key, value in manifest.items():
            if key == "text":
                stream.text = tx.put_object(obj, "text", LIST)
                append_values(tx, stream.text, value, 0)
                stream.segments = len(value)
            elif key == "metadata" and isinstance(value, dict):
                self._set_metadata(tx, stream, value)
            else:
                put_value(tx, obj, key, value)

    def _rewrite(self, tx: Transaction, output_id: str, obj: ObjId, segments: Sequence[Value]) -> None:
        # The manifest as a whole: a progress bar may do this for hours, and the key `text` would get slower and slower.
        manifest: dict[str, Any] = {"text": segments}
        for key in tx.keys(obj):
            found = tx.get(obj, key)
            if key != "text" and found is not None:
                manifest[key] = read_found(tx, found)
        self._write(tx, tx.put_object(self.obj, self._indexes[output_id] - self._trimmed, MAP), manifest)

    def _set_metadata(self, tx: Transaction, stream: _Stream, metadata: dict[str, Any]) -> None:
        # A stream that is cut goes on counting what is lost: the map stays, and is replaced like every register.
        if stream.metadata_keys != metadata.keys() or stream.metadata_writes >= self.rotate_after:
            stream.metadata = tx.put_object(stream.manifest, "metadata", MAP)
            stream.metadata_keys = frozenset(metadata)
            stream.metadata_writes = 0
        put_map(tx, stream.metadata, metadata)
        stream.metadata_writes += 1
