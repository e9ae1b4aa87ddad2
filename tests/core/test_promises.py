"""The check of docs/promises.md fails whenever a test named there did not show what the row says."""

from pathlib import Path

import pytest

from tests import promises

REPORT = promises.read_report(
    """<testsuites><testsuite name="pytest">
    <testcase classname="tests.core.test_a" name="test_passes"/>
    <testcase classname="tests.core.test_a.TestIn" name="test_a_class"/>
    <testcase classname="tests.core.test_a" name="test_skipped"><skipped type="pytest.skip"/></testcase>
    <testcase classname="tests.core.test_a" name="test_expected"><skipped type="pytest.xfail"/></testcase>
    <testcase classname="tests.core.test_a" name="test_fails"><failure message="no"/></testcase>
    <testcase classname="tests.core.test_a" name="test_unclean"/>
    <testcase classname="tests.core.test_a" name="test_unclean"><error message="teardown"/></testcase>
    <testcase classname="tests.core.test_a" name="test_two[a]"/>
    <testcase classname="tests.core.test_a" name="test_two[b]"><skipped type="pytest.skip"/></testcase>
    </testsuite></testsuites>"""
)


def problems(shown_by: str, figure: str = "") -> list[str]:
    return promises.problems_of_row(promises.Row("P1", "a promise", shown_by, figure), REPORT, {"bench"})


@pytest.mark.parametrize(
    "shown_by",
    [
        "`tests/core/test_a.py::test_passes`",
        "`tests/core/test_a.py::TestIn::test_a_class`, and more words",
        "`tests/core/test_a.py::test_two[a]`",
        "open: not built yet",
        "`tests/core/test_a.py::test_passes`; open: not over a real network",
    ],
)
def test_a_row_whose_tests_passed_or_that_says_open_is_right(shown_by: str) -> None:
    assert problems(shown_by) == []


@pytest.mark.parametrize(
    ("test", "problem"),
    [
        ("test_skipped", "was skipped"),
        ("test_expected", "was skipped"),
        ("test_fails", "was failed"),
        ("test_unclean", "was failed"),
        ("test_two", "[b] was skipped"),
        ("test_two[b]", "was skipped"),
        ("test_two[c]", "did not run"),
        ("test_never_written", "did not run"),
        ("TestIn::test_passes", "did not run"),
    ],
)
def test_a_test_that_did_not_run_and_pass_is_a_problem(test: str, problem: str) -> None:
    [found] = problems(f"`tests/core/test_a.py::test_passes`, `tests/core/test_a.py::{test}`; open: a part")

    assert problem in found


def test_a_command_needs_its_target_and_its_figure() -> None:
    assert problems("command: `make bench ROWS=1`", "1.2 x") == []
    assert problems("command: `make bench`") == ["a command alone shows nothing: its figure is missing"]
    assert problems("command: `make gone`", "1.2 x") == ["the Makefile has no target gone"]


@pytest.mark.parametrize("shown_by", ["", "by looking at it", "open:", "`tests/core/test_a.py`"])
def test_a_row_that_names_nothing_is_a_problem(shown_by: str) -> None:
    assert problems(shown_by) == ["names neither test nor command, nor says `open:` and why"]


def test_rows_are_read_from_every_table_with_the_four_columns() -> None:
    text = """
| id | promise | shown by | figure |
|---|---|---|---|
| P1 | a \\| b | `tests/a.py::test_b` | 0 of 500 |

| word | meaning |
|---|---|
| room | no promise |

| id | promise | shown by | figure |
|:--|---|---|--:|
| 1.1 | c | open: why | |
"""
    assert promises.read_rows(text) == [
        promises.Row("P1", "a | b", "`tests/a.py::test_b`", "0 of 500"),
        promises.Row("1.1", "c", "open: why", ""),
    ]


@pytest.mark.parametrize("row", ["| P1 | too | few |", "| P1 | a | b | c |\n| P1 | a | b | c |"])
def test_a_row_that_is_cut_short_or_repeated_is_an_error(row: str) -> None:
    with pytest.raises(ValueError, match="P1"):
        promises.read_rows(f"| id | promise | shown by | figure |\n|---|---|---|---|\n{row}\n")


@pytest.mark.parametrize(
    ("shown_by", "code"), [("`tests/a.py::test_b`", 0), ("`tests/a.py::test_gone`", 1), ("open: later", 0)]
)
def test_the_exit_code_says_whether_all_rows_are_right(tmp_path: Path, shown_by: str, code: int) -> None:
    table, junit, makefile = tmp_path / "promises.md", tmp_path / "junit.xml", tmp_path / "Makefile"
    table.write_text(f"| id | promise | shown by | figure |\n|---|---|---|---|\n| P1 | a | {shown_by} | |\n")
    makefile.write_text("bench:\n")
    assert promises.main(table, junit, makefile) == 1  # no test run at all

    junit.write_text('<testsuites><testcase classname="tests.a" name="test_b"/></testsuites>')
    assert promises.main(table, junit, makefile) == code


def test_a_table_without_rows_is_not_right(tmp_path: Path) -> None:
    (tmp_path / "promises.md").write_text("nothing\n")
    (tmp_path / "junit.xml").write_text("<testsuites/>")
    (tmp_path / "Makefile").write_text("")

    assert promises.main(tmp_path / "promises.md", tmp_path / "junit.xml", tmp_path / "Makefile") == 1
