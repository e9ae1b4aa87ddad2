"""Values that are not here: where they are, and how to get them."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sync.core.prepared import Value
from sync.core.value_reading import InvalidValue, blob_hash, decode_value

ReadBlob: TypeAlias = Callable[[str], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A value that is not here: `size` bytes at the daemon, under their SHA-256."""

    hash: str
    size: int
    media_type: str
    _read: ReadBlob = field(repr=False, compare=False)

    async def read(self) -> bytes:
        """The bytes, from the daemon.

        Raises:
            ConnectionLost: it can't be reached.
            RequestFailed: it does not have them any more.
        """
        return await self._read(self.hash)


def blob_refs(value: Any, read: ReadBlob) -> Iterator[BlobRef]:
    """The blobs that a value is in: the one that is the whole value, then those of its buffers."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            found = blob_hash(item)
            if found is not None:
                size = item.get("size")
                media_type = item.get("media_type")
                yield BlobRef(
                    found,
                    size if type(size) is int else 0,
                    media_type if isinstance(media_type, str) else "application/octet-stream",
                    read,
                )
            buffers = item.get("buffers")
            pending.extend(buffers if isinstance(buffers, list) else ())


def decode_trait(value: Value, loaded: Mapping[str, bytes], read: ReadBlob) -> Any:
    """What a trait's value stands for, with a `BlobRef` for it, or in it, where bytes are not here.

    Args:
        value: as the document has it; what has no known shape reads as None.
        loaded: bytes of blobs by their hash.
        read: gets the other ones.
    """
    if not isinstance(value, Mapping):
        return value
    refs = {ref.hash: ref for ref in blob_refs(value, read)}
    whole = blob_hash(value)
    if whole is not None and whole not in loaded:
        return refs[whole]

    def load(blob: str) -> Any:
        return loaded[blob] if blob in loaded else refs[blob]

    try:
        return decode_value(value, load)
    except InvalidValue:
        return None
