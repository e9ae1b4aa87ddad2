"""The content frame of a message -> its typed content, by message type."""

from typing import Any, Final

import msgspec

from kernel_bridge.core import messages as m
from kernel_bridge.core.json_text import loads_leniently

TYPES: Final[dict[str, type[m.Content]]] = {
    "status": m.Status,
    "stream": m.Stream,
    "display_data": m.DisplayData,
    "update_display_data": m.UpdateDisplayData,
    "execute_result": m.ExecuteResult,
    "execute_input": m.ExecuteInput,
    "error": m.Error,
    "clear_output": m.ClearOutput,
    "comm_open": m.CommOpen,
    "comm_msg": m.CommMsg,
    "comm_close": m.CommClose,
    "iopub_welcome": m.IopubWelcome,
    "execute_reply": m.ExecuteReply,
    "kernel_info_reply": m.KernelInfoReply,
    "input_request": m.InputRequest,
}

# Without these a message says nothing; any other field only decorates, and is left out when it does not fit, so that
# one odd field of an execute_reply does not leave an execution without an end.
_ESSENTIAL: Final = frozenset({"text", "data", "comm_id", "code"})

_DECODERS: Final = {msg_type: msgspec.json.Decoder(content) for msg_type, content in TYPES.items()}
_ANY: Final = msgspec.json.Decoder()


def decode_content(msg_type: str, frame: bytes) -> tuple[m.Content, bool]:
    """Reads a content frame.

    Returns:
        The content, and whether it was what its type says. If not: the type without the fields that did not fit, or
        `Unknown` where one of those was essential.

    Raises:
        ValueError: the frame is no JSON, not even leniently read.
    """
    decoder = _DECODERS.get(msg_type)
    try:
        if decoder is not None:
            return decoder.decode(frame), True
        raw = _ANY.decode(frame)
    except (ValueError, RecursionError):
        # UnicodeDecodeError and msgspec's errors are ValueErrors.
        raw = loads_leniently(frame)
        return content_from_raw(msg_type, raw), False
    return content_from_raw(msg_type, raw), True


def content_from_raw(msg_type: str, raw: Any) -> m.Content:
    """Makes the typed content from JSON values already read."""
    if not isinstance(raw, dict):
        return m.Unknown(raw=raw)
    content_type = TYPES.get(msg_type)
    if content_type is not None:
        return _convert(raw, content_type)
    if msg_type.endswith("_reply"):
        status = raw.get("status")
        return m.Reply(status=status if isinstance(status, str) else "", raw=raw)
    return m.Unknown(raw=raw)


def _convert(raw: dict[str, Any], content_type: type[m.Content]) -> m.Content:
    fitting = {}
    for field in msgspec.structs.fields(content_type):
        value = raw.get(field.name)
        if value is None:
            continue  # null where a value belongs is read as absent
        try:
            fitting[field.name] = msgspec.convert(value, field.type)
        except (ValueError, RecursionError):
            if field.name in _ESSENTIAL:
                return m.Unknown(raw=raw)
    try:
        return content_type(**fitting)
    except TypeError:  # a required field is not there
        return m.Unknown(raw=raw)
