"""The check of docs/promises.md reads what pytest writes: a version that names tests otherwise is noticed here."""

import subprocess
import sys
from pathlib import Path

from tests.promises import problems_of_test, read_report

TESTS = """
import pytest

@pytest.mark.parametrize("path", ["a/b::c", "[d]"])
def test_parameters(path): pass

class TestIn:
    def test_a_class(self): pass

def test_skipped(): pytest.skip("why")

@pytest.mark.xfail
def test_expected_to_fail(): raise LookupError

@pytest.fixture
def unclean():
    yield
    raise LookupError

def test_whose_clean_up_fails(unclean): pass
"""


def test_the_report_of_a_real_run_is_understood(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_real.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "--junitxml=report.xml"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    report = read_report((tmp_path / "report.xml").read_text())
    right = {
        name: problems_of_test(f"tests/test_real.py::{name}", report) == []
        for name in (
            "test_parameters",
            "test_parameters[a/b::c]",
            "TestIn::test_a_class",
            "test_skipped",
            "test_expected_to_fail",
            "test_whose_clean_up_fails",
        )
    }

    assert run.returncode == 1, run.stdout
    assert list(right.values()) == [True, True, True, False, False, False]
