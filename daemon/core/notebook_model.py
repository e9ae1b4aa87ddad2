"""A notebook between its file and its documents: as it was loaded, and as it is to be saved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from sync.core.outputs import Output

CellType: TypeAlias = Literal["code", "markdown", "raw"]


class InvalidNotebook(Exception):
    """This is no notebook that can be read, or written, without loss; the text says why."""


@dataclass(slots=True)
class LoadedCell:
    """A cell as the file has it. `attachments` is `{name: {mime: text}}`, `outputs` is empty but for code cells."""

    cell_id: str
    cell_type: CellType
    source: str
    metadata: dict[str, Any] = field(default_factory=dict)
    attachments: dict[str, dict[str, Any]] = field(default_factory=dict)
    execution_count: int | None = None
    outputs: list[Output] = field(default_factory=list)


@dataclass(slots=True)
class LoadedNotebook:
    """A notebook as the file has it. `widget_state` is what stood under the widgets' media type in the metadata.

    `nbformat_minor` is that of the file (5 for a converted one); `warnings` says what was left out or repaired.
    """

    metadata: dict[str, Any] = field(default_factory=dict)
    cells: list[LoadedCell] = field(default_factory=list)
    nbformat_minor: int = 5
    widget_state: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class SavedCell:
    """A cell to be written; `outputs` are as `decode_manifest` gives them, attachments as `decode_attachments` does."""

    cell_id: str
    cell_type: str
    source: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    attachments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    execution_count: int | None = None
    outputs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class SavedNotebook:
    """A notebook to be written."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    cells: list[SavedCell] = field(default_factory=list)
    widget_state: Mapping[str, Any] | None = None
