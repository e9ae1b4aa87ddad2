"""The wire codec: what one side writes the other reads, and nothing that a kernel sends raises."""

import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_bridge.core import messages as m
from kernel_bridge.core import wire
from kernel_bridge.core.wire import DELIMITER, MessageDecoder, MessageEncoder, Rejected, Signer, header_fields

KEY = b"a key"
DATE = "2026-01-02T03:04:05.678901+00:00"

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=20,
)
json_maps = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=10), json_values, max_size=5)


def signed(header: bytes, parent: bytes, metadata: bytes, content: bytes, *buffers: bytes) -> list[bytes]:
    parts = [header, parent, metadata, content]
    signature = hmac.new(KEY, b"".join(parts), hashlib.sha256).hexdigest().encode()
    return [b"topic", DELIMITER, signature, *parts, *buffers]


def message(msg_type: str, content: bytes | Any, *, parent: bytes = b"{}", metadata: bytes = b"{}") -> list[bytes]:
    header = {"msg_id": "k_1", "msg_type": msg_type, "session": "k", "username": "u", "date": DATE, "version": "5.3"}
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return signed(json.dumps(header).encode(), parent, metadata, raw)


def decoder(channel: m.Channel = "iopub") -> MessageDecoder:
    return MessageDecoder(channel, Signer(KEY))


def decoded(frames: list[bytes], channel: m.Channel = "iopub") -> m.KernelMessage:
    result = decoder(channel).decode(frames)
    assert isinstance(result, m.KernelMessage)
    return result


# What is written is read.


@given(
    key=st.binary(max_size=100),
    content=json_maps,
    metadata=json_maps,
    buffers=st.lists(st.binary(max_size=20), max_size=3),
    topic=st.lists(st.binary(max_size=5).filter(lambda frame: frame != DELIMITER), max_size=2),
)
def test_what_is_encoded_is_decoded(
    key: bytes, content: dict[str, Any], metadata: dict[str, Any], buffers: list[bytes], topic: list[bytes]
) -> None:
    parent = m.Header(msg_id="p_1", msg_type="input_request", session="k", username="u", date=DATE, version="5.3")
    encoder = MessageEncoder("s", "me", Signer(key))
    frames = encoder.encode(
        "no_such_type", content, msg_id="s_1", date=DATE, parent=parent, metadata=metadata, buffers=buffers
    )

    read = MessageDecoder("shell", Signer(key)).decode([*topic, *map(bytes, frames)])

    assert isinstance(read, m.KernelMessage)
    assert read.header == m.Header(
        msg_id="s_1", msg_type="no_such_type", session="s", username="me", date=DATE, version=wire.PROTOCOL_VERSION
    )
    assert read.parent == parent
    assert read.content == m.Unknown(raw=content)
    assert read.metadata == metadata
    assert read.buffers == buffers
    assert read.nbytes == sum(map(len, [*topic, *frames]))


@given(st.binary(max_size=200), st.lists(st.binary(max_size=50), max_size=4))
def test_signatures_are_hmac_sha256(key: bytes, frames: list[bytes]) -> None:
    assert Signer(key).sign(frames) == hmac.new(key, b"".join(frames), hashlib.sha256).hexdigest().encode()


def test_an_absent_parent_is_empty_and_a_subshell_is_named_only_where_there_is_one() -> None:
    encoder = MessageEncoder("s", "me", Signer(KEY))
    plain = encoder.encode("complete_request", {}, msg_id="s_1", date=DATE)
    in_subshell = encoder.encode("complete_request", {}, msg_id="s_2", date=DATE, subshell_id="sub")

    assert plain[3] == b"{}"
    assert "subshell_id" not in json.loads(bytes(plain[2]))
    assert json.loads(bytes(in_subshell[2]))["subshell_id"] == "sub"
    assert header_fields(m.Header()) == {}


def test_content_that_utf8_cannot_say_is_sent_as_an_escape() -> None:
    frames = MessageEncoder("s", "me", Signer(KEY)).encode(
        "execute_request", {"code": "'\ud800'"}, msg_id="s_1", date=DATE
    )

    assert json.loads(bytes(frames[5])) == {"code": "'\ud800'"}


# What real kernels send.


@pytest.mark.parametrize(
    ("msg_type", "content", "expected"),
    [
        ("status", {"execution_state": "busy"}, m.Status(execution_state="busy")),
        ("stream", {"name": "stderr", "text": "é\n"}, m.Stream(name="stderr", text="é\n")),
        ("clear_output", {"wait": True}, m.ClearOutput(wait=True)),
        ("execute_input", {"code": "1", "execution_count": 3}, m.ExecuteInput(code="1", execution_count=3)),
        (
            "execute_result",
            {"data": {"text/plain": "2"}, "metadata": {}, "execution_count": 1, "transient": {}},
            m.ExecuteResult(data={"text/plain": "2"}, execution_count=1, transient=m.Transient()),
        ),
        (
            "display_data",
            {"data": {"a/json": {"b": [1]}}, "metadata": {"x": 1}, "transient": {"display_id": "d"}},
            m.DisplayData(data={"a/json": {"b": [1]}}, metadata={"x": 1}, transient=m.Transient(display_id="d")),
        ),
        ("update_display_data", {"data": {}, "metadata": {}}, m.UpdateDisplayData()),
        ("error", {"ename": "E", "evalue": "v", "traceback": ["t"]}, m.Error(ename="E", evalue="v", traceback=["t"])),
        ("comm_open", {"comm_id": "c", "target_name": "t"}, m.CommOpen(comm_id="c", target_name="t")),
        ("comm_msg", {"comm_id": "c", "data": {}}, m.CommMsg(comm_id="c")),
        ("comm_close", {"comm_id": "c", "data": {}}, m.CommClose(comm_id="c")),
        ("iopub_welcome", {"subscription": ""}, m.IopubWelcome()),
        ("execute_reply", {"status": "abort", "execution_count": 1}, m.ExecuteReply(status="abort", execution_count=1)),
        ("execute_reply", {"status": "error"}, m.ExecuteReply(status="error")),
        ("input_request", {"prompt": "?", "password": True}, m.InputRequest(prompt="?", password=True)),
        ("complete_reply", {"status": "ok", "matches": []}, m.Reply(status="ok", raw={"status": "ok", "matches": []})),
        ("debug_event", {"seq": 1}, m.Unknown(raw={"seq": 1})),
        ("stream", {"name": "stdout", "text": "x", "from": "the future"}, m.Stream(text="x")),
    ],
)  # fmt: skip
def test_contents_are_typed(msg_type: str, content: dict[str, Any], expected: m.Content) -> None:
    reader = decoder()
    read = reader.decode(message(msg_type, content))

    assert isinstance(read, m.KernelMessage)
    assert read.content == expected
    assert type(read.content) is type(expected)
    assert reader.counts.ill_typed == 0


def test_null_parent_and_metadata_are_empty_as_xeus_sends_them() -> None:
    read = decoded(message("iopub_welcome", {"subscription": ""}, parent=b"null", metadata=b"null"))

    assert (read.parent, read.metadata) == (m.Header(), {})


def test_a_message_without_a_topic_is_read_as_bash_sends_it() -> None:
    assert decoded(message("stream", {"name": "stdout", "text": "x"})[1:]).content == m.Stream(text="x")


def test_odd_header_fields_are_empty() -> None:
    header = b'{"msg_id": "1", "msg_type": "status", "date": null, "version": 5.3, "session": "s", "subshell_id": null}'
    read = decoded(signed(header, b'{"msg_id": 7, "session": "x"}', b"{}", b"{}"))

    assert read.header == m.Header(msg_id="1", msg_type="status", session="s")
    assert read.parent == m.Header(session="x")


def test_a_field_that_only_decorates_is_left_out_when_it_does_not_fit() -> None:
    reader = decoder("shell")
    raw = {"status": "ok", "execution_count": 10**30, "payload": {}, "traceback": None, "user_expressions": 3}
    read = reader.decode(message("execute_reply", raw))

    assert isinstance(read, m.KernelMessage)
    assert read.content == m.ExecuteReply(status="ok")
    assert reader.counts.ill_typed == 1


@pytest.mark.parametrize(
    ("msg_type", "content"),
    [
        ("stream", {"name": "stdout", "text": 5}),
        ("display_data", {"data": [1]}),
        ("comm_msg", {"data": {}}),
        ("comm_open", {"comm_id": None}),
        ("status", [1, 2]),
        ("complete_reply", "ok"),
    ],
)
def test_content_that_lacks_the_essential_is_unknown(msg_type: str, content: Any) -> None:
    assert decoded(message(msg_type, content)).content == m.Unknown(raw=content)


def test_nan_infinity_and_numbers_beyond_a_double_are_none() -> None:
    content = b'{"data": {"application/json": [NaN, -Infinity, 1e400, 1.5]}}'

    read = decoded(message("display_data", content)).content

    assert isinstance(read, m.DisplayData)
    assert read.data == {"application/json": [None, None, None, 1.5]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"caf\xe9", "caf\ufffd"),
        (b"a\\ud800b", "a\ufffdb"),
        (b"\xff\\ud83d\\ude00", "\ufffd\U0001f600"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
    ],
)
def test_text_that_is_no_utf8_is_replaced(text: bytes, expected: str) -> None:
    assert decoded(message("stream", b'{"name": "stdout", "text": "' + text + b'"}')).content == m.Stream(text=expected)


@given(st.binary(max_size=60))
def test_whatever_the_bytes_of_a_string_text_can_be_encoded_again(text: bytes) -> None:
    read = decoder().decode(message("stream", b'{"text": "' + text + b'"}'))
    if isinstance(read, m.KernelMessage) and isinstance(read.content, m.Stream):
        read.content.text.encode()


# What hostile ones may send.

frames_of_anything = st.lists(
    st.binary(max_size=30) | st.sampled_from([DELIMITER, b"{}", b"null", b'{"msg_type": "stream"}']), max_size=10
)


@given(frames_of_anything, st.sampled_from(["iopub", "shell"]))
def test_garbage_is_rejected_and_never_raises(frames: list[bytes], channel: m.Channel) -> None:
    reader = decoder(channel)

    assert isinstance(reader.decode(frames), Rejected)
    assert reader.counts.rejected.total() == 1


json_or_garbage = st.binary(max_size=30) | json_values.map(lambda value: json.dumps(value).encode())


@given(
    st.sampled_from(["stream", "comm_msg", "execute_reply", "kernel_info_reply", "complete_reply", "debug_event"]),
    json_or_garbage,
    json_or_garbage,
    json_or_garbage,
)
def test_signed_garbage_never_raises(msg_type: str, parent: bytes, metadata: bytes, content: bytes) -> None:
    decoder().decode(message(msg_type, content, parent=parent, metadata=metadata))


@given(st.data())
def test_a_message_with_one_byte_changed_is_rejected(data: st.DataObject) -> None:
    frames = message("stream", {"name": "stdout", "text": "x"}, parent=b'{"msg_id": "p"}', metadata=b'{"a": 1}')
    which = data.draw(st.integers(2, 6))
    at = data.draw(st.integers(0, len(frames[which]) - 1))
    change = data.draw(st.integers(1, 255))
    frames[which] = frames[which][:at] + bytes([frames[which][at] ^ change]) + frames[which][at + 1 :]

    rejected = decoder().decode(frames)

    assert isinstance(rejected, Rejected)
    assert rejected.kind == "bad_signature"


@pytest.mark.parametrize(
    ("frames", "kind"),
    [
        ([], "no_delimiter"),
        ([b"a", b"b"], "no_delimiter"),
        ([DELIMITER, b"", b"{}", b"{}", b"{}"], "few_frames"),
        (signed(b"{", b"{}", b"{}", b"{}"), "bad_header"),
        (signed(b"{}", b"{}", b"{}", b"{}"), "bad_header"),
        (signed(b"[1]", b"{}", b"{}", b"{}"), "bad_header"),
        (signed(b"null", b"{}", b"{}", b"{}"), "bad_header"),
        (signed(b'{"msg_type": "status"}', b"7", b"{}", b"{}"), "bad_header"),
        (signed(b'{"msg_type": "' + b"x" * 70_000 + b'"}', b"{}", b"{}", b"{}"), "bad_header"),
        (message("status", b"{"), "bad_json"),
        (message("no_such_type", b""), "bad_json"),
        (message("status", b"[" * 100_000), "bad_json"),
        (message("status", {}, metadata=b"x"), "bad_json"),
        (message("stream", b'{"text": ' + b"9" * 5_000 + b"}"), "bad_json"),
    ],
)
def test_what_is_no_message_is_rejected_by_kind(frames: list[bytes], kind: str) -> None:
    reader = decoder()
    rejected = reader.decode(frames)

    assert isinstance(rejected, Rejected)
    assert rejected.kind == kind
    assert reader.counts.rejected == {kind: 1}
    assert (reader.counts.messages, reader.counts.nbytes) == (0, sum(map(len, frames)))


def test_a_replay_is_rejected_on_shell_and_not_looked_for_on_iopub() -> None:
    frames = message("execute_reply", {"status": "ok"})
    shell, iopub = decoder("shell"), decoder("iopub")

    first, second = shell.decode(frames), shell.decode(frames)

    assert isinstance(first, m.KernelMessage)
    assert isinstance(second, Rejected)
    assert second.kind == "duplicate"
    assert isinstance(iopub.decode(frames), m.KernelMessage)
    assert isinstance(iopub.decode(frames), m.KernelMessage)


def test_what_is_remembered_against_replays_is_bounded() -> None:
    shell = decoder("shell")
    for number in range(2_500):
        shell.decode(message("execute_reply", {"execution_count": number}))

    assert shell.counts.messages == 2_500
    assert len(shell._signatures) == 1_000


def test_a_message_above_the_limit_keeps_its_type_and_parent_and_loses_its_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "MAX_MESSAGE_BYTES", 1_000)
    frames = [*message("display_data", {"data": {}}, parent=b'{"msg_id": "p"}'), b"x" * 2_000]
    reader = decoder()

    read = reader.decode(frames)

    assert isinstance(read, m.KernelMessage)
    assert (read.header.msg_type, read.parent.msg_id) == ("display_data", "p")
    assert read.content == m.Oversize(nbytes=sum(map(len, frames)))
    assert read.buffers == ()
    assert reader.counts.oversize == 1


def test_a_message_of_too_many_frames_is_too_big(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FRAMES", 20)

    assert isinstance(decoded([*message("comm_msg", {"comm_id": "c"}), *[b""] * 20]).content, m.Oversize)


def test_a_message_of_too_many_items_is_too_big(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_JSON_ITEMS", 1_000_000)
    few = b'{"data": {"application/json": [' + b"{}," * 400_000 + b"1]}}"
    many = b'{"data": {"application/json": [' + b"{}," * 600_000 + b"1]}}"

    assert isinstance(decoded(message("display_data", few)).content, m.DisplayData)
    assert isinstance(decoded(message("display_data", many)).content, m.Oversize)


def test_the_parent_is_not_mixed_up_between_messages() -> None:
    reader = decoder()
    parents = [b"{}", b'{"msg_id": "a"}', b'{"msg_id": "a"}', b'{"msg_id": "b"}', b"null", b'{"msg_id": "a"}']

    read = [reader.decode(message("status", {}, parent=parent)) for parent in parents]

    assert [one.parent.msg_id for one in read if isinstance(one, m.KernelMessage)] == ["", "a", "a", "b", "", "a"]
