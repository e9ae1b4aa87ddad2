"""The daemon that is measured, in a process of its own and with folders of its own."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import trio

from benchmarks.workers import ROOT

START_SECONDS = 60.0
STOP_SECONDS = 20.0
LOG_BYTES = 8_000  # of the end of its log, when something failed


class DaemonFailed(Exception):
    """It did not start, or does not tell what it should."""


@dataclass(frozen=True, slots=True)
class Notebook:
    """An open notebook: URLs of its documents, and the id that the API knows it by."""

    id: str
    notebook: str
    runtime: str


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon."""

    pid: int
    url: str
    sync_url: str
    token: str
    root: Path
    api: httpx.AsyncClient

    async def open(self, path: str) -> Notebook:
        """Opens a notebook that is there as a file."""
        answer = await self.api.post("/api/notebooks", json={"path": path})
        answer.raise_for_status()
        opened = answer.json()
        return Notebook(opened["id"], opened["notebook"], opened["runtime"])

    async def close(self, notebook: Notebook) -> None:
        """Ends its kernel and its room."""
        (await self.api.delete(f"/api/notebooks/{notebook.id}")).raise_for_status()

    async def count(self, wanted: str) -> int:
        """A counter of /metrics, by its name without what all have in common."""
        for line in (await self.api.get("/metrics")).text.splitlines():
            name, _, value = line.partition(" ")
            if name == f"notebookd_{wanted}_total":
                return int(float(value))
        raise DaemonFailed(f"/metrics does not tell {wanted}")


@asynccontextmanager
async def running_daemon(
    directory: Path,
    environment: Mapping[str, str],
    *,
    program: Sequence[str] = ("-m", "daemon"),
    pass_fds: Sequence[int] = (),
) -> AsyncIterator[Daemon]:
    """Starts it with `directory`/root and `directory`/state, and ends it with SIGTERM.

    Raises:
        DaemonFailed: it did not start.
    """
    root = directory / "root"
    root.mkdir(parents=True)
    log = directory / "log"
    with log.open("wb") as stderr:
        process = await trio.lowlevel.open_process(
            [
                *[sys.executable, *program, "serve", "--port", "0"],
                *["--state-dir", str(directory / "state"), "--root", str(root)],
            ],
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
            env=environment,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    try:
        assert process.stdout is not None
        line = b""
        with trio.move_on_after(START_SECONDS):
            while not line.endswith(b"\n") and (part := await process.stdout.receive_some()):
                line += part
        if not line.endswith(b"\n"):
            raise DaemonFailed("no announcement; its log says why")
        info = json.loads(line)
        headers = {"Authorization": f"Bearer {info['token']}"}
        async with httpx.AsyncClient(base_url=info["url"], headers=headers, timeout=START_SECONDS) as api:
            yield Daemon(process.pid, info["url"], info["sync_url"], info["token"], root, api)
    except Exception:
        # Whatever went wrong, the daemon may know why.
        sys.stderr.write(log.read_text(errors="replace")[-LOG_BYTES:])
        raise
    finally:
        with trio.CancelScope(shield=True):
            process.terminate()
            with trio.move_on_after(STOP_SECONDS):
                await process.wait()
            process.kill()
            await process.wait()
