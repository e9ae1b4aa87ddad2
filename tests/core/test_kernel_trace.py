"""Traces: what was recorded is read back, and played in the order and batches of its channels."""

from collections.abc import Sequence

import msgspec
import pytest

from kernel_bridge.core import messages as m
from kernel_bridge.core.trace import TraceEntry, encode_entry, message_of, read_trace, received_entry, replay


def message(msg_type: str, content: m.Content, channel: m.Channel = "iopub", **fields: object) -> m.KernelMessage:
    return m.KernelMessage(
        channel=channel,
        header=m.Header(msg_id="1", msg_type=msg_type),
        parent=m.Header(msg_id="p"),
        metadata={"a": [1, None]},
        content=content,
        **fields,  # type: ignore[arg-type]  # buffers and nbytes
    )


@pytest.mark.parametrize(
    "original",
    [
        message("stream", m.Stream(text="é\n")),
        message("display_data", m.DisplayData(data={"a/json": {}}, transient=m.Transient(display_id="d"))),
        message("execute_reply", m.ExecuteReply(status="ok", execution_count=3), "shell"),
        message("comm_msg", m.CommMsg(comm_id="c", data={"x": 1}), buffers=[b"\x00\xff"], nbytes=2),
        message("complete_reply", m.Reply(status="ok", raw={"status": "ok", "matches": []}), "shell"),
        message("debug_event", m.Unknown(raw={"seq": 1})),
    ],
    ids=lambda original: original.header.msg_type,
)
def test_a_message_survives_its_recording(original: m.KernelMessage) -> None:
    [entry] = read_trace([encode_entry(received_entry(original, 1.5))])

    restored = message_of(entry)

    assert entry.at == 1.5
    assert msgspec.structs.replace(restored, buffers=list(restored.buffers)) == msgspec.structs.replace(
        original, buffers=list(original.buffers)
    )


def test_messages_that_follow_each_other_on_a_channel_are_one_batch() -> None:
    batches: list[list[str]] = []

    class Sink:
        def receive(self, messages: Sequence[m.KernelMessage]) -> None:
            batches.append([one.header.msg_type for one in messages])

    status = received_entry(message("status", m.Status()), 0)
    reply = received_entry(message("execute_reply", m.ExecuteReply(), "shell"), 0)
    sent = TraceEntry(at=0, direction="sent", channel="shell", header=m.Header(), parent=m.Header())

    replay([sent, status, status, reply, status, sent, status], Sink())

    assert batches == [["status", "status"], ["execute_reply"], ["status"], ["status"]]


def test_a_line_that_is_no_entry_is_an_error() -> None:
    with pytest.raises(msgspec.DecodeError):
        list(read_trace([b'{"at": 1}']))
