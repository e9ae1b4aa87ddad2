"""Shows executions as they happen: plain lines in a pipe, a live last line and colours on a terminal."""

import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from daemon.core.control_characters import escaped, tamed
from daemon.core.show import CellLines
from sync.client.cell import Cell
from sync.client.executions import Execution
from sync.client.notebook import Notebook
from sync.core.plain import read_found
from sync.core.runtime_reading import find

ENDED = ("done", "error", "interrupted", "cancelled")
_MARKS = {"done": "ok", "error": "failed", "interrupted": "interrupted", "cancelled": "did not run"}


class Printer:
    """Prints to stdout. `prefix` stands before each line of an output, so that it is told from what is ours."""

    def __init__(self, prefix: str = "  ") -> None:
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._prefix = prefix

    @property
    def is_terminal(self) -> bool:
        """Whether a person looks on."""
        return self._console.is_terminal

    def say(self, line: str, style: str = "") -> None:
        """Lines of our own; what others wrote in them is escaped."""
        self._console.print(Text("\n".join(map(escaped, line.split("\n"))), style=style))
        sys.stdout.flush()

    async def follow(self, notebook: Notebook, execution: Execution, title: str) -> str:
        """Shows one execution from where it is to its end; returns its final status."""
        cell = Cell(notebook, execution.cell_id)  # which may have been deleted since
        self.say(f"{title} {_summary(cell)}", "bold")
        lines = CellLines(colour=self.is_terminal)
        began, asked, connected = time.monotonic(), None, True
        with Live(console=self._console, transient=True, auto_refresh=False) as live:
            while True:
                # Before the outputs are loaded, which may take a while: what happens meanwhile is news.
                seen = _state(notebook, execution, cell)
                status = execution.status or "queued"
                outputs = await cell.load_outputs() if status not in ("queued", "cancelled") else []
                for line in lines.update(outputs, ended=status in ENDED):
                    live.console.print(Text(self._prefix) + Text.from_ansi(line))
                prompt = _prompt(notebook, execution)
                if prompt is not None and prompt != asked:
                    self.say(f"{self._prefix}it waits for input: {prompt['prompt']}", "yellow")
                asked = prompt
                if notebook.connected != connected:
                    connected = notebook.connected
                    self.say("connected again" if connected else "connection lost; trying to get it back", "yellow")
                sys.stdout.flush()
                if status in ENDED:
                    break
                if self.is_terminal:
                    open_line = tamed(_open_line(outputs), colour=False)
                    live.update(Text(self._prefix + open_line, style="dim"), refresh=True)
                await _wait_for_news(notebook, execution, cell, seen)
        style = "green" if status == "done" else "red" if status == "error" else "yellow"
        seconds = _seconds(notebook, execution)
        took = (
            "" if status == "cancelled" else f" after {time.monotonic() - began if seconds is None else seconds:.1f} s"
        )
        self.say(f"{self._prefix}{_MARKS[status]}{took}", style)
        return status


def _seconds(notebook: Notebook, execution: Execution) -> float | None:
    """What an execution took, by the daemon's clock; None where the document does not say, or its clock was set back."""
    found = find(notebook.runtime_replica, "executions", execution.id)
    entry: Any = None if found is None else read_found(notebook.runtime_replica, found)
    try:
        started, ended = (datetime.fromisoformat(entry[name]) for name in ("started_at", "ended_at"))
        seconds = (ended - started).total_seconds()
    except (KeyError, TypeError, ValueError):  # not there, and what is no time
        return None
    return seconds if seconds >= 0 else None


def _state(notebook: Notebook, execution: Execution, cell: Cell) -> object:
    return execution.status, cell.manifests(), _prompt(notebook, execution), notebook.connected


async def _wait_for_news(notebook: Notebook, execution: Execution, cell: Cell, seen: object) -> None:
    await notebook.wait_for(lambda: _state(notebook, execution, cell) != seen)


def _prompt(notebook: Notebook, execution: Execution) -> dict[str, Any] | None:
    asked = notebook.kernel.get("input_request")
    return asked if isinstance(asked, dict) and asked.get("execution_id") == execution.id else None


def _summary(cell: Cell) -> str:
    if not cell.exists:
        return "(deleted)"
    lines = [line for line in cell.source.splitlines() if line.strip()]
    return lines[0] if lines else "(empty)"


def _open_line(outputs: Sequence[object]) -> str:
    last = outputs[-1] if outputs else None
    text = getattr(last, "text", "") if getattr(last, "output_type", "") == "stream" else ""
    return "" if not text or text.endswith("\n") else text.rsplit("\n", 1)[-1]
