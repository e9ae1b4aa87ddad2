"""What every end-to-end test stands on: Jupyter folders of its own, and a bash kernel to find there."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def jupyter_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own, so that no test reads or writes the user's; short, since sockets' paths must be."""
    with tempfile.TemporaryDirectory(prefix="nb-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        for variable, folder in {
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
        }.items():
            (home / folder).mkdir(parents=True, mode=0o700)
            monkeypatch.setenv(variable, str(home / folder))
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
