"""docs/client.md: its examples run as they stand, and what it names is there, with `await` and without."""

import re
import shutil
import textwrap
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

import sync.client
from sync.client import BlobRef, Cell, Event, Execution, Notebook, Output, Result, Widget, Widgets
from sync.client.blocking import BlockingCell, BlockingExecution, BlockingNotebook
from sync.client.blocking_widgets import BlockingWidget, BlockingWidgets
from tests.fakes.daemon_process import DaemonProcess, running_daemon

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text()
AWAITING, BLOCKING = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

# A section's names, and whose they are. Instances have the last ones.
SECTIONS: dict[str, tuple[list[type], set[str]]] = {
    "The notebook": ([Notebook, BlockingNotebook], {"url"}),
    "Cells and executions": (
        [Cell, BlockingCell, Execution, BlockingExecution, Result, Output, BlobRef],
        {"id", "cell_id"},
    ),
    "Widgets": (
        [Widget, BlockingWidget, Widgets, BlockingWidgets],
        {"id", "model_name", "by_id", "by_model"},
    ),
}


async def test_the_examples_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with running_daemon(tmp_path) as daemon:
        shutil.copy(ROOT / "daemon" / "examples" / "tour.ipynb", daemon.root / "tour.ipynb")
        await defined("async def", AWAITING, daemon)()
        said = capsys.readouterr().out
        assert said.startswith("8 cells, kernel not_started\n")
        assert "-32002 not_a_code_cell {}\n" in said
        await trio.to_thread.run_sync(defined("def", BLOCKING, daemon))
        assert capsys.readouterr().out == "42\n"


def defined(how: str, example: str, daemon: DaemonProcess) -> Any:
    scope: dict[str, Any] = {"url": daemon.url, "token": daemon.token}
    exec(f"{how} run():\n{textwrap.indent(example, '    ')}", scope)
    return scope["run"]


@pytest.mark.parametrize("section", SECTIONS)
def test_what_is_named_is_there(section: str) -> None:
    classes, known = SECTIONS[section]
    [text] = re.findall(rf"^## {section}.*?\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"`(?:cell\.|execution\.)?([a-z_]+)(?=[`(])", text)) - {"await"}
    assert len(named) > 10
    has = known.union(*map(names, classes))
    if section == "The notebook":
        named -= names(Event)
        has = known | (names(Notebook) & names(BlockingNotebook))
    assert named <= has, named - has


def names(of: type) -> set[str]:
    public = {name for name in dir(of) if not name.startswith("_")}
    return public | ({field.name for field in fields(of)} if is_dataclass(of) else set())


def test_every_error_and_every_way_in_is_named() -> None:
    by_others = {"Notebook", "Cell", "Execution", "Result", "Output", "Event", "EventStream", "Widget", "Widgets"}
    for name in set(sync.client.__all__) - by_others:
        assert f"`{name}" in PAGE, name
