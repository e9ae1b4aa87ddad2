"""Typed Jupyter messages, tolerant of what real kernels send.

Source of the shapes: the Jupyter messaging protocol 5.x, and the differences that real kernels show (null headers,
missing fields, unknown status words). Every field but ids has a default; unknown fields are ignored; content that does
not fit its type becomes `Unknown`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

Channel: TypeAlias = Literal["shell", "control", "iopub", "stdin"]

# Why a multipart is no message: its frames, its signature, its JSON; or it came before (shell, control, stdin).
RejectionKind: TypeAlias = Literal["no_delimiter", "few_frames", "bad_signature", "duplicate", "bad_header", "bad_json"]

# What every JSON reader holds exactly; a kernel's own integers may be of any length.
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """A message header or parent header; an absent or null parent has empty strings."""

    msg_id: str = ""
    msg_type: str = ""
    session: str = ""
    username: str = ""
    date: str = ""
    version: str = ""
    subshell_id: str | None = None


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all contents."""


class Status(Content, frozen=True):
    """iopub status: starting, busy, idle, or a word of the kernel's own."""

    execution_state: str = ""


class Stream(Content, frozen=True):
    """iopub stream."""

    name: str = "stdout"
    text: str = ""


class Transient(msgspec.Struct, frozen=True, kw_only=True):
    """What display messages carry beside their data and must not be saved."""

    display_id: str | None = None


class DisplayData(Content, frozen=True):
    """iopub display_data."""

    data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    transient: Transient | None = None


class UpdateDisplayData(DisplayData, frozen=True):
    """iopub update_display_data."""


class ExecuteResult(DisplayData, frozen=True):
    """iopub execute_result."""

    execution_count: Count | None = None


class ExecuteInput(Content, frozen=True):
    """iopub execute_input: the kernel starts to run this code."""

    code: str = ""
    execution_count: Count | None = None


class Error(Content, frozen=True):
    """iopub error."""

    ename: str = ""
    evalue: str = ""
    traceback: list[str] = []


class ClearOutput(Content, frozen=True):
    """iopub clear_output."""

    wait: bool = False


class CommOpen(Content, frozen=True):
    """comm_open, from the kernel."""

    comm_id: str
    target_name: str = ""
    data: dict[str, Any] = {}


class CommMsg(Content, frozen=True):
    """comm_msg, from the kernel."""

    comm_id: str
    data: dict[str, Any] = {}


class CommClose(Content, frozen=True):
    """comm_close, from the kernel."""

    comm_id: str
    data: dict[str, Any] = {}


class IopubWelcome(Content, frozen=True):
    """The XPUB's answer to our subscription."""

    subscription: str = ""


class ExecuteReply(Content, frozen=True):
    """shell execute_reply; `status` is ok, error, aborted (some kernels: abort) or a word of the kernel's own."""

    status: str = ""
    execution_count: Count | None = None
    ename: str = ""
    evalue: str = ""
    traceback: list[str] = []
    payload: list[dict[str, Any]] = []
    user_expressions: dict[str, Any] | None = None


class KernelInfoReply(Content, frozen=True):
    """shell kernel_info_reply. `language_info` is whatever the kernel says there, for notebook files."""

    status: str = "ok"
    protocol_version: str = ""
    implementation: str = ""
    implementation_version: str = ""
    language_info: dict[str, Any] = {}
    banner: str = ""
    supported_features: list[str] = []

    @property
    def language(self) -> str:
        """The language's name; "" if the kernel does not say."""
        name = self.language_info.get("name")
        return name if isinstance(name, str) else ""


class Reply(Content, frozen=True):
    """Any other reply (complete, inspect, history, is_complete, comm_info, ...): `raw` has it all."""

    status: str = ""
    raw: dict[str, Any] = {}


class InputRequest(Content, frozen=True):
    """stdin input_request."""

    prompt: str = ""
    password: bool = False


class Unknown(Content, frozen=True):
    """A message type that we do not know, or content that does not fit its type."""

    raw: Any = None


class Oversize(Content, frozen=True):
    """A message above the hard limit: `nbytes` came, the body was dropped unread, the signature was not checked."""

    nbytes: int


class Unreadable(Content, frozen=True):
    """Not from the kernel, but about it: a multipart came that is no message of it, and was dropped; `kind` says why."""

    kind: RejectionKind
    nbytes: int


class KernelMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message from the kernel; `nbytes` is its size on the wire, `buffers` are not covered by its signature."""

    channel: Channel
    header: Header
    parent: Header
    metadata: dict[str, Any]
    content: Content
    buffers: Sequence[bytes | memoryview] = ()
    nbytes: int = 0
