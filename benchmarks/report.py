"""What came out, for a person and for a program."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "latest.json"


@dataclass(slots=True)
class Row:
    """One line of the table.

    Attributes:
        name: what is measured.
        unit: of floor and ours; ms, s, us.
        ours: our figure.
        floor: what it is compared with, if with anything.
        goal: the largest ratio, or the largest figure where there is no floor; None for a line that only informs.
        spread: the smallest and largest ratio of the rounds, where there were several.
        notes: what a reader must know, in a few words each.
        details: for the JSON file.
    """

    name: str
    unit: str
    ours: float
    floor: float | None = None
    goal: float | None = None
    spread: tuple[float, float] | None = None
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Ours in floors."""
        return None if self.floor is None else self.ours / self.floor

    @property
    def verdict(self) -> str:
        """Whether the goal is met, where there is one."""
        if self.goal is None:
            return ""
        return "met" if (self.ours if self.ratio is None else self.ratio) <= self.goal else "missed"

    def goal_text(self) -> str:
        """The goal as the table shows it."""
        if self.goal is None:
            return ""
        return f"<= {self.goal:g} {self.unit}" if self.floor is None else f"<= {self.goal:g} x"


def show(rows: Sequence[Row], console: Console) -> None:
    """Prints the table, and the notes below it."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for column in ("goal", "floor", "ours", "ratio", "of rounds"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        floor = "" if row.floor is None else f"{row.floor:.4g} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        spread = "" if row.spread is None else f"{row.spread[0]:.2f}-{row.spread[1]:.2f}"
        style = {"met": "green", "missed": "red"}.get(row.verdict, "")
        ours = f"{row.ours:.4g} {row.unit}"
        verdict = f"[{style}]{row.verdict}[/]" if style else ""
        table.add_row(row.name, row.goal_text(), floor, ours, ratio, spread, verdict)
    console.print(table)
    for row in rows:
        for note in row.notes:
            console.print(f"  {row.name}: {note}", style="dim", soft_wrap=True, highlight=False)


def write(rows: Sequence[Row], machine: dict[str, Any]) -> None:
    """Writes benchmarks/results/latest.json."""
    RESULTS.parent.mkdir(exist_ok=True)
    content = {
        "machine": machine,
        "rows": [{**asdict(row), "ratio": row.ratio, "verdict": row.verdict} for row in rows],
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
