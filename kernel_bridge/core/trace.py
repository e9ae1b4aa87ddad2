"""Recorded conversations with kernels, both ways: one JSON object a line, buffers in base64.

A sink fed from a trace sees what it saw from the kernel, message by message and batch by batch, without a kernel.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol

import msgspec

from kernel_bridge.core.contents import content_from_raw
from kernel_bridge.core.messages import Channel, Header, KernelMessage, Reply, Unknown


class TraceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One message; `at` in seconds since the trace began. `content` is as on the wire, but for defaults filled in."""

    at: float
    direction: Literal["sent", "received"]
    channel: Channel
    header: Header
    parent: Header
    metadata: dict[str, Any] = {}
    content: Any = None
    buffers: list[bytes] = []


class Receiver(Protocol):
    """What a trace is played to: a kernel's sink."""

    def receive(self, messages: Sequence[KernelMessage]) -> None:
        """Takes messages of one channel in the order of their arrival."""


_DECODER = msgspec.json.Decoder(TraceEntry)


def received_entry(message: KernelMessage, at: float) -> TraceEntry:
    """The entry for a message as it went to the sink."""
    content = message.content
    return TraceEntry(
        at=at,
        direction="received",
        channel=message.channel,
        header=message.header,
        parent=message.parent,
        metadata=message.metadata,
        content=content.raw if isinstance(content, (Reply, Unknown)) else msgspec.to_builtins(content),
        buffers=[bytes(buffer) for buffer in message.buffers],
    )


def encode_entry(entry: TraceEntry) -> bytes:
    """Returns the entry's line, newline included."""
    return msgspec.json.encode(entry) + b"\n"


def read_trace(lines: Iterable[bytes | str]) -> Iterator[TraceEntry]:
    """Reads the lines of a trace.

    Raises:
        msgspec.DecodeError: a line is not what `encode_entry` writes.
    """
    return (_DECODER.decode(line) for line in lines if line.strip())


def message_of(entry: TraceEntry) -> KernelMessage:
    """The message that the entry was made from; `nbytes` is what its buffers take, the rest is not recorded."""
    return KernelMessage(
        channel=entry.channel,
        header=entry.header,
        parent=entry.parent,
        metadata=entry.metadata,
        content=content_from_raw(entry.header.msg_type, entry.content),
        buffers=entry.buffers,
        nbytes=sum(map(len, entry.buffers)),
    )


def replay(entries: Iterable[TraceEntry], receiver: Receiver) -> None:
    """Gives the received messages to a sink, those that follow each other on one channel as one batch."""
    batch: list[KernelMessage] = []
    for entry in entries:
        if batch and (entry.direction == "sent" or entry.channel != batch[0].channel):
            receiver.receive(batch)
            batch = []
        if entry.direction == "received":
            batch.append(message_of(entry))
    if batch:
        receiver.receive(batch)
