"""Outputs before they become manifests: what a kernel showed, in our words.

The shapes follow nbformat 4 and the manifests of docs/wire.md. They hold plain JSON values (`str`, numbers, lists,
maps); `values.py` turns the big and the binary ones into blob references.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

StreamName: TypeAlias = Literal["stdout", "stderr"]
DisplayType: TypeAlias = Literal["display_data", "execute_result"]


@dataclass(frozen=True, slots=True)
class StreamOutput:
    """Text of a stream: `segments` concatenate; only the last may change later."""

    output_id: str
    name: StreamName
    segments: tuple[str, ...]
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class DisplayOutput:
    """A mime bundle. Binary mime values are base64 text here, as on Jupyter's wire."""

    output_id: str
    output_type: DisplayType
    data: Mapping[str, Any]
    metadata: Mapping[str, Any]
    display_id: str | None = None
    execution_count: int | None = None


@dataclass(frozen=True, slots=True)
class ErrorOutput:
    """An exception as the kernel described it; `traceback` is its list of lines."""

    output_id: str
    ename: str
    evalue: str
    traceback: tuple[str, ...]


Output: TypeAlias = StreamOutput | DisplayOutput | ErrorOutput
