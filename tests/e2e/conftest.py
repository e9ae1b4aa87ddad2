"""What every end-to-end test stands on: Jupyter folders of its own, and a bash kernel to find there."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.served_daemon import ServedDaemon, served_daemon

FOLDERS = {
    "HOME": "home",
    "IPYTHONDIR": "ipython",
    "JUPYTER_CONFIG_DIR": "jupyter/config",
    "JUPYTER_DATA_DIR": "jupyter/data",
    "JUPYTER_RUNTIME_DIR": "jupyter/runtime",
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "XDG_RUNTIME_DIR": "run",
    "XDG_STATE_HOME": "state",
}


def make_home(home: Path) -> dict[str, str]:
    """Makes the folders of a home; the variables that name them."""
    for folder in FOLDERS.values():
        (home / folder).mkdir(parents=True, mode=0o700)
    return {variable: str(home / folder) for variable, folder in FOLDERS.items()}


@pytest.fixture(autouse=True)
def jupyter_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own, so that no test reads or writes the user's; short, since sockets' paths must be."""
    with tempfile.TemporaryDirectory(prefix="nb-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        for variable, folder in make_home(home).items():
            monkeypatch.setenv(variable, folder)
        yield home


@pytest.fixture(scope="session")
def bash_kernelspec_prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix with bash_kernel's kernelspec."""
    prefix = tmp_path_factory.mktemp("bash")
    subprocess.run(
        [sys.executable, "-m", "bash_kernel.install", "--prefix", str(prefix)], check=True, capture_output=True
    )
    return prefix


@pytest.fixture
def bash_kernelspec(bash_kernelspec_prefix: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a kernelspec for bash, to be found in this test."""
    monkeypatch.setenv("JUPYTER_PATH", str(bash_kernelspec_prefix / "share" / "jupyter"))
    return "bash"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, bash_kernelspec_prefix: Path) -> Iterator[ServedDaemon]:
    """A daemon for all tests of a module, which open notebooks of their own; it finds the bash kernel, too."""
    with tempfile.TemporaryDirectory(prefix="nb-", ignore_cleanup_errors=True) as home:
        environment = {
            # ipykernel sends on what children print, but not where this says that it is under test itself.
            **{key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"},
            **make_home(Path(home)),
            "JUPYTER_PATH": str(bash_kernelspec_prefix / "share" / "jupyter"),
        }
        with served_daemon(tmp_path_factory.mktemp("daemon"), environment) as served:
            yield served
