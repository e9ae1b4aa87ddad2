"""A real `notebookd serve` in a process of its own, for end-to-end tests."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import trio

START_SECONDS = 60
STOP_SECONDS = 20


@dataclass
class DaemonProcess:
    """A running daemon: how to reach it, and its process."""

    process: trio.Process
    url: str
    sync_url: str
    token: str
    root: Path
    stderr: bytearray

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def open(self, path: str, *, create: bool = False) -> dict[str, str]:
        """POST /api/notebooks; the answer."""
        async with httpx.AsyncClient(timeout=60) as client:
            body = {"path": path, "create": create}
            answer = await client.post(f"{self.url}/api/notebooks", json=body, headers=self.headers)
        answer.raise_for_status()
        opened: dict[str, str] = answer.json()
        return opened

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(timeout=60) as client:
            return await client.get(self.url + path, headers=self.headers)

    async def delete(self, path: str) -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            (await client.delete(self.url + path, headers=self.headers)).raise_for_status()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)


@asynccontextmanager
async def running_daemon(
    directory: Path,
    *options: str,
    environment: Mapping[str, str] | None = None,
    token: str | None = None,
    module: str = "daemon",
) -> AsyncIterator[DaemonProcess]:
    """Starts a daemon with `directory`/state and `directory`/root and ends it with SIGTERM.

    Raises:
        AssertionError: it did not start, or did not end with 0; its log is in the message.
    """
    root = directory / "root"
    root.mkdir(exist_ok=True)
    command: Sequence[str] = [
        *[sys.executable, "-m", module, "serve", "--port", "0"],
        *["--state-dir", str(directory / "state"), "--root", str(root)],
        *(["--token", token] if token else []),
        *options,
    ]
    stderr = bytearray()
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            cwd=Path(__file__).parents[2],
        )
        try:
            nursery.start_soon(_collect, process, stderr)
            with trio.move_on_after(START_SECONDS):
                line = await _first_line(process)
            assert line, f"the daemon did not start:\n{stderr.decode()}"
            info = json.loads(line)
            yield DaemonProcess(process, info["url"], info["sync_url"], info["token"], root, stderr)
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
            with trio.move_on_after(STOP_SECONDS):
                await process.wait()
            assert process.returncode in (0, -signal.SIGKILL), f"exit {process.returncode}:\n{stderr.decode()}"
        except BaseException:
            sys.stderr.write(stderr.decode(errors="replace")[-20_000:])
            raise
        finally:
            with trio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.wait()


async def _first_line(process: trio.Process) -> bytes:
    assert process.stdout is not None
    data = bytearray()
    while not data.endswith(b"\n"):
        part = await process.stdout.receive_some()
        if not part:
            break
        data += part
    return bytes(data)


async def _collect(process: trio.Process, into: bytearray) -> None:
    assert process.stderr is not None
    async for part in process.stderr:
        into += part
