"""What a kernel says, or pretends to: runs of multipart messages, signed and not, and what the daemon makes of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any, get_args

from daemon.core.runtime import Runtime
from kernel_bridge.core.messages import Channel, KernelMessage
from kernel_bridge.core.wire import DELIMITER, MessageDecoder, Signer
from sync.core.binding import ROOT
from sync.core.document import Document
from sync.core.identifiers import document_id
from sync.core.plain import read_plain
from sync.core.runtime_schema import RuntimeSchema
from sync.core.urgency import Urgency
from sync.core.values import prepare
from tests.fuzz.corpus import RUNTIME_URL
from tests.fuzz.mutation import choose, damage, damage_value, nested, odd_text, odd_value
from tests.fuzz.target import Target

SESSION = "ours"
_SIGNER = Signer(b"key")
_CHANNELS: tuple[Channel, ...] = get_args(Channel)
_WORDS = (
    DELIMITER,
    b"null",
    b"{}",
    b"[]",
    b'"',
    b"\\ud800",
    b"\xff\xfe",
    b"NaN",
    b"1e999",
    b"-",
    b"9" * 400,
    b"[" * 5000,
)
_TEXTS = ("", "a\n", "1%\r2%\r3%", "\b\b\b", "\x1b[2K\x1b[1A", "x" * 5000, "é\n" * 30, "a\nb\nc", "\r\n", "\x1b[31mred")
_OUTPUT_MODEL = {
    "_model_name": "OutputModel",
    "_model_module": "@jupyter-widgets/output",
    "outputs": [],
    "msg_id": "",
}


@dataclass(frozen=True)
class Multipart:
    """One message as it comes from a socket."""

    channel: Channel
    frames: Sequence[bytes]


def make_messages(rng: Random) -> Sequence[Multipart]:
    """What one kernel sends in a row."""
    return [_make_message(rng) for _ in range(rng.choice((1, 2, 5, 12)))]


def _make_message(rng: Random) -> Multipart:
    msg_type = rng.choice(list(_CONTENTS))
    content: Any = _CONTENTS[msg_type](rng)
    header = {
        "msg_id": f"k{rng.randrange(9)}",
        "msg_type": msg_type,
        "session": "kernel",
        "username": "u",
        "date": "2026-01-02T03:04:05.678901+00:00",
        "version": "5.3",
    }
    parent = choose(
        rng,
        (6, {"msg_id": f"x-{rng.choice('ab')}", "msg_type": "execute_request", "session": SESSION}),
        (1, {"msg_id": "unknown", "msg_type": "comm_msg", "session": SESSION}),
        (1, {"msg_id": "x-a", "msg_type": "execute_request", "session": "someone's"}),
        (1, {}),
        (1, None),
    )
    metadata: Any = {}
    kind = choose(rng, (5, "right"), (5, "content"), (2, "fields"), (2, "bytes"), (2, "unsigned"), (2, "frames"))
    if kind == "content":
        content = damage_value(rng, content)
    elif kind == "fields":
        header = damage_value(rng, header)
        parent = damage_value(rng, parent)
        metadata = odd_value(rng)
    signed = [_json(part) for part in (header, parent, metadata, content)]
    if kind == "bytes":
        at = rng.randrange(4)
        signed[at] = damage(rng, signed[at], _WORDS)
    signature = _SIGNER.sign(signed)
    if kind == "unsigned":
        signature = rng.choice((b"", signature[:-1], signature.upper(), b"0" * 64, rng.randbytes(64)))
    buffers = [rng.randbytes(rng.choice((0, 1, 8, 2000))) for _ in range(rng.choice((0, 0, 0, 1, 3)))]
    frames = [b"topic", DELIMITER, signature, *signed, *buffers]
    if kind == "frames":
        for _ in range(rng.choice((1, 2))):
            at = rng.randrange(len(frames) + 1)
            frames[at : at + rng.choice((0, 1))] = rng.choice(([], [b""], [DELIMITER], [rng.randbytes(9)], frames[:2]))
    channel = rng.choice(_CHANNELS) if rng.random() < 0.1 else _channel_of(msg_type)
    return Multipart(channel, frames)


def _channel_of(msg_type: str) -> Channel:
    if msg_type.endswith("_reply"):
        return "shell"
    return "stdin" if msg_type == "input_request" else "iopub"


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _comm_id(rng: Random) -> str:
    return f"c{rng.randrange(3)}"


def _outputs(rng: Random) -> list[Any]:
    return [{"output_type": "stream", "name": "stdout", "text": rng.choice(_TEXTS)} for _ in range(rng.randrange(3))]


def _display(rng: Random) -> dict[str, Any]:
    data = rng.choice(
        (
            {"text/plain": rng.choice(_TEXTS)},
            {"image/png": rng.choice(("aGVsbG8=", "not base64!", "", "aGVsbG8=" * 900))},
            {"application/json": odd_value(rng), "text/html": "<b>x</b>"},
            {"text/plain": ["a", "b"], "image/svg+xml": "<svg/>"},
            {},
        )
    )
    return {
        "data": data,
        "metadata": rng.choice(({}, {"isolated": True}, {"a": odd_value(rng)})),
        "transient": rng.choice(({}, {"display_id": rng.choice(("d1", "d2", ""))}, None)),
        "execution_count": rng.choice((1, None, -1, 2**60)),
    }


def _state(rng: Random) -> dict[str, Any]:
    return choose(
        rng,
        (2, {"value": odd_value(rng)}),
        (2, {"msg_id": rng.choice(("x-a", "x-b", ""))}),
        (1, {"outputs": _outputs(rng)}),
        (1, {"children": ["IPY_MODEL_c0", "IPY_MODEL_nobody"], "value": rng.choice(_TEXTS)}),
        (1, {odd_text(rng): odd_value(rng)}),
    )


def _paths(rng: Random) -> list[Any]:
    return rng.choice(
        ([], [["value"]], [["value", 0]], [["a", "b"], ["a"]], [[]], [[0]], [["children", 7]], [["value"]] * 9)
    )


_CONTENTS: dict[str, Any] = {
    "status": lambda rng: {"execution_state": rng.choice(("busy", "busy", "idle", "idle", "starting", "odd"))},
    "execute_input": lambda rng: {"code": "1", "execution_count": rng.choice((1, None, 2**53))},
    "execute_reply": lambda rng: {
        "status": rng.choice(("ok", "ok", "error", "aborted", "abort", "?")),
        "execution_count": 1,
        "ename": "E",
        "traceback": ["a", "b"],
        "payload": rng.choice(([], [{"source": "page", "data": {"text/plain": "help"}}], [{"source": 7}])),
    },
    "stream": lambda rng: {"name": rng.choice(("stdout", "stderr", "other")), "text": rng.choice(_TEXTS)},
    "display_data": _display,
    "update_display_data": _display,
    "execute_result": _display,
    "error": lambda rng: {"ename": "E", "evalue": rng.choice(_TEXTS), "traceback": [rng.choice(_TEXTS)]},
    "clear_output": lambda rng: {"wait": rng.choice((True, False))},
    "comm_open": lambda rng: {
        "comm_id": _comm_id(rng),
        "target_name": rng.choice(("jupyter.widget", "jupyter.widget", "other")),
        "data": {
            "state": rng.choice((_OUTPUT_MODEL, {"_model_name": "IntSliderModel", "value": 1})),
            "buffer_paths": _paths(rng),
        },
    },
    "comm_msg": lambda rng: {
        "comm_id": _comm_id(rng),
        "data": {
            "method": rng.choice(("update", "update", "echo_update", "custom", "request_states")),
            "state": _state(rng),
            "buffer_paths": _paths(rng),
            "content": odd_value(rng),
        },
    },
    "comm_close": lambda rng: {"comm_id": _comm_id(rng), "data": {}},
    "input_request": lambda rng: {"prompt": rng.choice(_TEXTS), "password": rng.choice((True, False))},
    "kernel_info_reply": lambda rng: {"status": "ok", "language_info": {"name": odd_text(rng)}},
    "complete_reply": lambda rng: {"status": "ok", "matches": [odd_text(rng)]},
    "debug_event": odd_value,
    "": lambda rng: nested(rng.choice((3, 300)), "list") if rng.random() < 0.1 else {},
}


async def feed_messages(messages: Sequence[Multipart]) -> str:
    """Through the codec and the room's state into a runtime document; then the kernel dies, and all must have its end."""
    ids = count()
    runtime = Runtime(
        new_id=lambda: f"id{next(ids)}", monotonic=lambda: 0.0, timestamp=lambda: "2026", wake=lambda _: None
    )
    document, schema = Document(document_id(b"r" * 16)), RuntimeSchema()
    document.commit(lambda tx: schema.create(tx, notebook_url=RUNTIME_URL, path="x.ipynb"))
    for cell_id in "ab":
        runtime.add_cell(cell_id)
    runtime.submit([(f"x-{cell_id}", cell_id, "1") for cell_id in "ab"], run_id=None, stop_on_error=False)
    runtime.kernel_starting("python3", "python")
    runtime.kernel_ready("python", SESSION)
    decoders = {channel: MessageDecoder(channel, _SIGNER) for channel in _CHANNELS}
    taken = 0
    for number, message in enumerate(messages):
        decoded = decoders[message.channel].decode(message.frames)
        if isinstance(decoded, KernelMessage):
            taken += 1
            runtime.receive([decoded])
            runtime.take_effects()
        if number % 3 == 2:
            _commit(runtime, document, schema)
    runtime.kernel_gone("died", message="fuzzed")
    runtime.mutate([], Urgency.URGENT)
    _commit(runtime, document, schema)
    running = [e for cell_id in "ab" if (e := runtime.queue.find(f"x-{cell_id}")) and e.status in ("queued", "running")]
    if running:
        raise AssertionError(f"executions without an end: {running}")
    read_plain(document.replica, ROOT)
    if taken == len(messages):
        return "all taken"
    return "some taken" if taken else "rejected"


def _commit(runtime: Runtime, document: Document, schema: RuntimeSchema) -> None:
    prepared, _ = prepare(runtime.drain().mutations)
    document.commit(lambda tx: schema.apply(tx, prepared))


KERNEL_MESSAGES: Target[Sequence[Multipart]] = Target("kernel", make_messages, feed_messages)
