"""What commands print."""

import re

import pytest

from daemon.printing import Printer
from sync.client import Execution, open_notebook
from sync.core.mutations import AddCell, AddExecution, SetCell, SetExecution
from tests.fakes.scripted_daemon import scripted_daemon


def test_what_others_wrote_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    Printer().say("[1/2] # \x1b[2J of a cell\nnext")
    assert capsys.readouterr().out == "[1/2] # \\x1b[2J of a cell\nnext\n"


STARTED = "2026-01-02T23:59:58.500Z"


@pytest.mark.parametrize(
    ("times", "took"),
    [
        ({"started_at": STARTED, "ended_at": "2026-01-03T00:01:00.750Z"}, r"62\.2"),
        ({"started_at": STARTED, "ended_at": "2026-01-02T23:59:58Z"}, r"\d\.\d"),  # a clock that was set back
        ({"started_at": STARTED, "ended_at": "late"}, r"\d\.\d"),
        ({"started_at": "1970-01-01T00:00:00", "ended_at": STARTED}, r"\d\.\d"),  # with no zone
        ({}, r"\d\.\d"),
    ],
)
async def test_who_comes_late_sees_what_an_execution_took(
    times: dict[str, str], took: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with scripted_daemon() as daemon:
        daemon.change(
            AddCell("c"),
            AddExecution("x", "c", 1),
            SetExecution("x", status="done", execution_count=1, **times),  # type: ignore[arg-type]  # strings
            SetCell("c", execution_id="x", execution_count=1),
        )
        async with open_notebook(daemon.url, notebook=daemon.notebook.url) as nb:
            assert await Printer().follow(nb, Execution(nb, "x", "c"), "[1]") == "done"
    assert re.fullmatch(rf"\[1\] \(deleted\)\n  ok after {took} s\n", capsys.readouterr().out)
