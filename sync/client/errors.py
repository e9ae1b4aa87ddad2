"""What can go wrong for a program that uses a notebook."""

from collections.abc import Mapping
from typing import Any


class NotebookError(Exception):
    """The root of them all."""


class ConnectionLost(NotebookError):
    """The daemon can't be reached, or went away while something was asked of it; whether it did that is unknown."""


class RequestFailed(NotebookError):
    """The daemon refused a request, or could not do it.

    Attributes:
        code: of JSON-RPC (docs/wire.md), or the status of an HTTP answer.
        reason: one word, such as `not_found`.
        data: what else the daemon says, for instance `kind`, `param`, `stderr` or `missing`.
    """

    def __init__(self, code: int, reason: str, data: Mapping[str, Any], message: str = "") -> None:
        super().__init__(f"{reason}: {message}" if message else reason)
        self.code = code
        self.reason = reason
        self.data = dict(data)


class WidgetClosed(NotebookError):
    """The widget is not there any more: it was closed, or its kernel has ended."""


class SyncTimeout(NotebookError):
    """The daemon and this client did not come to the same state in time."""


class ProtocolError(NotebookError):
    """The other end does not keep to the protocol; the connection was given up."""
