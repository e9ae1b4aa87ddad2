"""What the runtime wants done outside: values that its room carries out."""

from dataclasses import dataclass
from typing import TypeAlias

from daemon.core.comm import SendComm
from daemon.core.executions import Execution
from kernel_bridge.core import messages as k


@dataclass(frozen=True, slots=True)
class SendExecute:
    """Send this execution to the kernel, with its execution_id as msg_id."""

    execution: Execution


@dataclass(frozen=True, slots=True)
class SendInput:
    """Answer the kernel's pending input_request."""

    value: str
    parent: k.Header


@dataclass(frozen=True, slots=True)
class SendQuestion:
    """Send the kernel an execution of nothing: its answer says that the kernel is past all that was sent before."""

    msg_id: str


@dataclass(frozen=True, slots=True)
class NextInput:
    """The kernel wants a text to stand in the notebook: below the cell that ran `code`, or, with `replace`, in its place."""

    cell_id: str
    code: str
    text: str
    replace: bool


Effect: TypeAlias = SendExecute | SendQuestion | SendInput | SendComm
