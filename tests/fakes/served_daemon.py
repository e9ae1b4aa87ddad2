"""A real `notebookd serve` that several tests share: started and ended without an event loop, so a fixture can hold it."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil

START_SECONDS = 60  # Python and its imports on a loaded machine
STOP_SECONDS = 20


@dataclass(frozen=True)
class Opened:
    """An open notebook: its file, and its documents as URLs."""

    id: str
    path: Path
    notebook: str
    runtime: str


@dataclass(frozen=True)
class ServedDaemon:
    """A running daemon and how to reach it; `root` is where it opens notebooks, `environment` is its own."""

    pid: int
    url: str
    sync_url: str
    token: str
    root: Path
    log: Path
    environment: Mapping[str, str]

    def client(self) -> httpx.AsyncClient:
        """An HTTP client with its token."""
        return httpx.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=60)

    async def open(self, path: str | None = None, *, kernel_name: str | None = None) -> Opened:
        """Opens a notebook, a new one unless its file exists."""
        path = path or f"{uuid4()}.ipynb"
        async with self.client() as client:
            body = {"path": path, "create": True, **({"kernel_name": kernel_name} if kernel_name else {})}
            answer = (await client.post("/api/notebooks", json=body)).raise_for_status().json()
        return Opened(answer["id"], self.root / path, answer["notebook"], answer["runtime"])

    async def close(self, opened: Opened) -> None:
        """Ends the notebook's kernel and its room."""
        async with self.client() as client:
            (await client.delete(f"/api/notebooks/{opened.id}")).raise_for_status()

    @asynccontextmanager
    async def opened(self, *, kernel_name: str | None = None) -> AsyncIterator[Opened]:
        """A new notebook, closed at the end."""
        opened = await self.open(kernel_name=kernel_name)
        yield opened
        await self.close(opened)

    async def file(self, opened: Opened) -> dict[str, Any]:
        """The notebook as an .ipynb, as it now is."""
        async with self.client() as client:
            answer = await client.get(f"/api/notebooks/{opened.id}/file")
        notebook: dict[str, Any] = answer.raise_for_status().json()
        return notebook

    def add_kernelspec(self, name: str, argv: Sequence[str]) -> None:
        """Makes a kernelspec that this daemon finds."""
        folder = Path(self.environment["JUPYTER_DATA_DIR"]) / "kernels" / name
        folder.mkdir(parents=True)
        spec = {"argv": list(argv), "display_name": name, "language": "python"}
        (folder / "kernel.json").write_text(json.dumps(spec))

    def kernels(self) -> list[psutil.Process]:
        """The processes of its Python kernels, those that are only starting included."""
        children = psutil.Process(self.pid).children()
        return [child for child in children if any("ipykernel" in word for word in _command(child))]

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it to the daemon, not to its kernels."""
        os.kill(self.pid, number)


@contextmanager
def served_daemon(directory: Path, environment: Mapping[str, str], *options: str) -> Iterator[ServedDaemon]:
    """Starts a daemon with `directory`/state and `directory`/root, and ends it with SIGTERM if it is still there.

    Raises:
        AssertionError: it did not start, did not end with 0, or logged an error; its log is in the message.
    """
    root, log = directory / "root", directory / "log"
    root.mkdir()
    command = [
        *[sys.executable, "-m", "daemon", "serve", "--port", "0"],
        *["--state-dir", str(directory / "state"), "--root", str(root), "--log-format", "json"],
        *options,
    ]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, env=environment, cwd=Path(__file__).parents[2]
        )
    assert process.stdout is not None
    with process.stdout:
        try:
            readable, _, _ = select.select([process.stdout], [], [], START_SECONDS)
            line = process.stdout.readline() if readable else b""
            assert line, f"the daemon did not start:\n{log.read_text()}"
            info = json.loads(line)
            yield ServedDaemon(process.pid, info["url"], info["sync_url"], info["token"], root, log, environment)
            process.terminate()
            code = process.wait(STOP_SECONDS)
        finally:
            process.kill()
            process.wait()
    said = log.read_text()
    errors = [line for line in said.splitlines() if '"level": "error"' in line or "Traceback" in line]
    assert code == 0, f"exit {code}:\n{said}"
    assert not errors, "\n".join(errors)


def _command(process: psutil.Process) -> list[str]:
    try:
        command: list[str] = process.cmdline()
    except psutil.Error:  # it has just ended
        return []
    return command
