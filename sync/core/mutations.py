"""What the doc-writer does to a runtime document, in our words.

Producers (router, queue, reducer) make these; `runtime_schema.py` is the only code that turns them into Automerge
operations and knows the document's keys (docs/wire.md). Within one commit they apply in order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, NamedTuple, TypeAlias

from sync.core.outputs import Output

KernelStatus: TypeAlias = Literal["not_started", "starting", "idle", "busy", "restarting", "dead"]
ExecutionStatus: TypeAlias = Literal["queued", "running", "done", "error", "interrupted", "cancelled"]
FileStatus: TypeAlias = Literal["loading", "ready", "missing", "invalid", "conflict", "read_only"]


class Unset(Enum):
    """The type of UNSET: "this field is left as it is"."""

    UNSET = "unset"


UNSET = Unset.UNSET


class Target(NamedTuple):
    """A list of outputs in the document: a cell's, a comm's captured ones, or the kernel log (`id` is "" then)."""

    kind: Literal["cell", "comm", "kernel_log"]
    id: str


KERNEL_LOG = Target("kernel_log", "")


@dataclass(frozen=True, slots=True)
class SetKernel:
    """Fields of `kernel`. `None` removes an optional one (`error`, `input_request`)."""

    status: KernelStatus | Unset = UNSET
    name: str | Unset = UNSET
    language: str | Unset = UNSET
    error: Mapping[str, Any] | None | Unset = UNSET
    input_request: Mapping[str, Any] | None | Unset = UNSET


@dataclass(frozen=True, slots=True)
class SetQueue:
    """The whole queue as it now is; the schema writes only the difference."""

    executing: str | None
    queued: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddExecution:
    """A new entry of `executions`, with status queued and execution_count null."""

    execution_id: str
    cell_id: str
    order: int


@dataclass(frozen=True, slots=True)
class SetExecution:
    """Fields of one entry of `executions`; times are ISO 8601 in UTC."""

    execution_id: str
    status: ExecutionStatus | Unset = UNSET
    execution_count: int | None | Unset = UNSET
    started_at: str | Unset = UNSET
    ended_at: str | Unset = UNSET


@dataclass(frozen=True, slots=True)
class RemoveExecution:
    """Forgets an ended execution (the last 1 000, and those of the last 10 minutes, are kept)."""

    execution_id: str


@dataclass(frozen=True, slots=True)
class AddCell:
    """`cells[cell_id]` = {execution_id: null, execution_count, outputs: []}; nothing if it is there."""

    cell_id: str
    execution_count: int | None = None


@dataclass(frozen=True, slots=True)
class SetCell:
    """Which execution's outputs `cells[cell_id]` shows."""

    cell_id: str
    execution_id: str | None | Unset = UNSET
    execution_count: int | None | Unset = UNSET


@dataclass(frozen=True, slots=True)
class RemoveCell:
    """Drops `cells[cell_id]`, outputs included."""

    cell_id: str


@dataclass(frozen=True, slots=True)
class ClearOutputs:
    """A new empty list at the target (deleting elements one by one costs more the longer the list is)."""

    target: Target


@dataclass(frozen=True, slots=True)
class AppendOutput:
    """One more output at the end of the target's list."""

    target: Target
    output: Output


@dataclass(frozen=True, slots=True)
class EditStream:
    """Segments from index `first` on become `segments`.

    `first` is the number of segments, to append; one less, to replace the open one as well; anything smaller gives the
    output a new list of segments, which must then start at 0.
    """

    target: Target
    output_id: str
    first: int
    segments: tuple[str, ...]
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ReplaceOutput:
    """The output with the same output_id, at the same index, is now this one (update_display_data)."""

    target: Target
    output: Output


@dataclass(frozen=True, slots=True)
class TrimOutputs:
    """Keeps only the target's last `keep` outputs, in a new list (the kernel log's bound)."""

    target: Target
    keep: int


@dataclass(frozen=True, slots=True)
class OpenComm:
    """A new entry of `comms`; `state` maps a trait to a plain JSON value with `bytes` where the kernel sent buffers."""

    comm_id: str
    target_name: str
    model_module: str
    model_name: str
    order: int
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SetCommState:
    """New values of some traits of one comm; the last value of a trait in a commit wins."""

    comm_id: str
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CloseComm:
    """Drops an entry of `comms`, captured outputs included."""

    comm_id: str


@dataclass(frozen=True, slots=True)
class SetFile:
    """Fields of `file`. `None` removes an optional one."""

    path: str | Unset = UNSET
    status: FileStatus | Unset = UNSET
    error: str | None | Unset = UNSET
    saved_notebook_heads: tuple[str, ...] | Unset = UNSET
    saved_at: str | Unset = UNSET


@dataclass(frozen=True, slots=True)
class SetEnvironment:
    """`environment` as it now is."""

    in_sync: bool
    added: tuple[str, ...]
    removed: tuple[str, ...]
    progress: Mapping[str, Any] | None = None


Mutation: TypeAlias = (
    SetKernel
    | SetQueue
    | AddExecution
    | SetExecution
    | RemoveExecution
    | AddCell
    | SetCell
    | RemoveCell
    | ClearOutputs
    | AppendOutput
    | EditStream
    | ReplaceOutput
    | TrimOutputs
    | OpenComm
    | SetCommState
    | CloseComm
    | SetFile
    | SetEnvironment
)
