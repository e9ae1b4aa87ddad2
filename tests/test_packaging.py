"""The import names `daemon`, `kernel_bridge` and `sync` are generic: these guards keep them ours."""

import ast
import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("daemon", "kernel_bridge", "sync")


@pytest.mark.parametrize("name", PACKAGES)
def test_no_other_distribution_claims_the_name(name: str) -> None:
    """By the installed metadata, not by where an import leads: from the repo root an import is always ours."""
    assert set(packages_distributions().get(name, [])) <= {PROJECT["project"]["name"]}


def test_the_daemon_package_itself_is_a_docstring() -> None:
    """Even python-daemon's `__init__.py` in the place of ours would then break nothing."""
    statements = ast.parse((ROOT / "daemon/__init__.py").read_text()).body

    assert [type(statement) for statement in statements] == [ast.Expr]


def test_no_module_has_a_name_of_python_daemons() -> None:
    assert not {"daemon.py", "pidfile.py", "runner.py"} & {path.name for path in (ROOT / "daemon").iterdir()}


def test_the_constraints_keep_python_daemon_out() -> None:
    assert "python-daemon<0" in (ROOT / "constraints.txt").read_text().splitlines()


def test_the_constraints_pin_every_dependency() -> None:
    project = PROJECT["project"]
    required = project["dependencies"] + [item for extra in project["optional-dependencies"].values() for item in extra]
    pinned = {
        re.sub("[-_.]+", "-", line.partition("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }

    assert {re.sub("[-_.]+", "-", re.split(r"[\s<>=!~\[;]", item)[0]).lower() for item in required} <= pinned


def test_no_lock_file_names_a_registry() -> None:
    """Packages are asked for by name; where they come from is each machine's setting."""
    assert '"resolved"' not in (ROOT / "tests/js/package-lock.json").read_text()
    assert "://" not in (ROOT / "constraints.txt").read_text()
