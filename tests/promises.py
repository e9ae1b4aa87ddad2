"""Checks docs/promises.md against the JUnit report of a test run: `python -m tests.promises PROMISES REPORT`.

Every row of its tables names what shows the promise: tests, by their pytest ids, which must all have run and passed;
a command of the Makefile with the figure it gave; or `open:` and why. A test id stands for all its parameters.
"""

import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["passed", "skipped", "failed"]
# JUnit's name of a test without its parameters -> parameters (or "") -> what became of it
Report: TypeAlias = Mapping[str, Mapping[str, Outcome]]

HEADER = ("id", "promise", "shown by", "figure")
CODE = re.compile(r"`([^`]+)`")
COMMAND = re.compile(r"command: `make ([a-z]+)[^`]*`")


@dataclass(frozen=True, slots=True)
class Row:
    """One promise; `shown_by` and `figure` as they are written."""

    id: str
    promise: str
    shown_by: str
    figure: str

    @property
    def tests(self) -> list[str]:
        """The pytest ids among what shows it."""
        return [name for name in CODE.findall(self.shown_by) if "::" in name]

    @property
    def commands(self) -> list[str]:
        """The Makefile's targets among what shows it."""
        return COMMAND.findall(self.shown_by)

    @property
    def open(self) -> bool:
        """Whether a part of it, or all, is said to be not shown."""
        return re.search(r"open: \S", self.shown_by) is not None


def read_rows(text: str) -> list[Row]:
    """The rows of all tables with the four columns.

    Raises:
        ValueError: A row of such a table has another number of cells, or an id occurs twice.
    """
    rows: list[Row] = []
    in_table = False
    for line in text.splitlines():
        if not line.startswith("|"):
            in_table = False
            continue
        cells = tuple(cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1])
        if cells == HEADER:
            in_table = True
        elif in_table and not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            if len(cells) != len(HEADER):
                raise ValueError(f"{len(cells)} cells instead of {len(HEADER)}: {line}")
            rows.append(Row(*cells))
    repeated = {row.id for row in rows if sum(other.id == row.id for other in rows) > 1}
    if repeated:
        raise ValueError(f"ids that occur twice: {', '.join(sorted(repeated))}")
    return rows


def read_report(xml: str) -> Report:
    """What a JUnit report by pytest says of each test.

    Raises:
        ElementTree.ParseError: The report is cut off or no XML.
    """
    report: dict[str, dict[str, Outcome]] = {}
    for case in ET.fromstring(xml).iter("testcase"):
        name, bracket, parameters = case.get("name", "").partition("[")
        outcome: Outcome = "passed"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
        elif case.find("skipped") is not None:  # an expected failure too: it shows nothing
            outcome = "skipped"
        outcomes = report.setdefault(f"{case.get('classname', '')}.{name}", {})
        # A test whose clean-up failed has two entries under one name: the worse one counts.
        if outcomes.get(bracket + parameters) != "failed":
            outcomes[bracket + parameters] = outcome
    return report


def junit_name(test_id: str) -> tuple[str, str]:
    """How a JUnit report names a pytest id: (dotted name, parameters or "")."""
    name, bracket, parameters = test_id.partition("[")
    path, *names = name.split("::")
    return ".".join([path.removesuffix(".py").replace("/", "."), *names]), bracket + parameters


def problems_of_test(test_id: str, report: Report) -> list[str]:
    """Why a test shows nothing; empty if it ran and passed, with all its parameters where the id names none."""
    name, parameters = junit_name(test_id)
    outcomes = report.get(name, {})
    if parameters:
        outcomes = {parameters: outcomes[parameters]} if parameters in outcomes else {}
    if not outcomes:
        return [f"{test_id} did not run, or does not exist"]
    return [f"{test_id}{'' if parameters else which} was {was}" for which, was in outcomes.items() if was != "passed"]


def problems_of_row(row: Row, report: Report, targets: Iterable[str]) -> list[str]:
    """What keeps a row from being true: a test without success, a command without its figure, or nothing named."""
    problems = [problem for test_id in row.tests for problem in problems_of_test(test_id, report)]
    problems += [f"the Makefile has no target {command}" for command in row.commands if command not in targets]
    if row.commands and not row.figure:
        problems.append("a command alone shows nothing: its figure is missing")
    if not row.tests and not row.commands and not row.open:
        problems.append("names neither test nor command, nor says `open:` and why")
    return problems


def main(promises: Path, junit: Path, makefile: Path = Path("Makefile")) -> int:
    """Prints what is wrong, and how much is shown and open; returns the exit code."""
    if not junit.exists():
        print(f"{junit} does not exist: run `make test` first")
        return 1
    rows = read_rows(promises.read_text())
    report = read_report(junit.read_text())
    targets = set(re.findall(r"^([a-z]+):", makefile.read_text(), re.MULTILINE))
    wrong = {row.id: problems for row in rows if (problems := problems_of_row(row, report, targets))}
    for row_id, problems in wrong.items():
        for problem in problems:
            print(f"{row_id}: {problem}")
    not_shown = sum(row.open for row in rows)
    print(f"{promises}: {len(rows)} promises; {not_shown} open, at least in part; {len(wrong)} not as they say")
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
