"""The wheel is whole: installed alone into an empty environment, its command runs from any directory."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent.parent
# The home of every other end-to-end test is empty; pip's settings and its cache are in the real one.
ENVIRONMENT = dict(os.environ)
IMPORT_ALL = """
import daemon, importlib, kernel_bridge, pkgutil, sync
for package in (daemon, kernel_bridge, sync):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command and returns its stdout; its stderr is in the message when it fails."""
    result = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by way of the source distribution, so that what that lacks is missed too."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_holds_our_packages_whole_and_nothing_else(wheel: Path) -> None:
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {
        str(path.relative_to(ROOT))
        for package in ("daemon", "kernel_bridge", "sync")
        for pattern in ("*.py", "*.ipynb")
        for path in (ROOT / package).rglob(pattern)
        if ".ipynb_checkpoints" not in path.parts
    }

    assert names == sources


def test_the_installed_command_runs_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    """With the declared dependencies alone: none that only the development environment has."""
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert version in run(tmp_path / "venv/bin/notebookd", "--version", cwd=tmp_path)
    assert version in run(python, "-P", "-m", "daemon", "--version", cwd=tmp_path)
    run(python, "-P", "-c", IMPORT_ALL, cwd=tmp_path)
