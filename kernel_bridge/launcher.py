"""A local kernel process: its connection file, its start in a session of its own, its streams, its end."""

import os
import re
import secrets
import shutil
import signal
import socket
import string
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import trio

from kernel_bridge.core.connection import PORTS, ConnectionInfo, ipc_connection, takes_ipc
from kernel_bridge.core.tail import TailBuffer
from kernel_bridge.kernelspecs import KernelSpec

# A traceback and what led to it; a kernel may write to stderr for weeks.
STDERR_TAIL: Final = 64 * 1024
# After SIGKILL only a process in an uninterruptible system call is still there, and nobody can do anything about it.
REAP_SECONDS: Final = 5.0
# A kernel whose process group was killed has closed its pipes, unless somebody outside of the group inherited them.
PIPES_SECONDS: Final = 0.5
# That must be free before a kernel starts: it takes 22, and between the look and its last socket others may open files. When
# libzmq finds none for itself it ends the whole process, and every other kernel and notebook with it (measured).
FREE_DESCRIPTORS: Final = 64
_PIPE_CHUNK: Final = 64 * 1024


class KernelLaunchFailed(Exception):
    """The kernel did not start, or did not answer.

    Attributes:
        message: what happened, in one sentence.
        stderr: the last that the process wrote to stderr.
        timed_out: it was there, and said nothing.
    """

    def __init__(self, message: str, stderr: str = "", *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.stderr = stderr
        self.timed_out = timed_out


def check_descriptors() -> None:
    """Makes sure that a kernel's sockets can be opened; takes 30 us.

    Raises:
        KernelLaunchFailed: so many files are open already that they can't.
    """
    with ExitStack() as opened:
        try:
            first = os.open(os.devnull, os.O_RDONLY)
            opened.callback(os.close, first)
            for _ in range(FREE_DESCRIPTORS - 1):
                opened.callback(os.close, os.dup(first))
        except OSError as error:
            raise KernelLaunchFailed(f"there is no room for another kernel: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class ConnectionDirectory:
    """A private directory with a kernel's connection file and, for ipc, its sockets."""

    path: Path
    info: ConnectionInfo

    @property
    def file(self) -> Path:
        """The connection file."""
        return self.path / "connection.json"

    @classmethod
    def create(cls, runtime_dir: Path, spec: KernelSpec) -> "ConnectionDirectory":
        """Makes the directory (0700), picks ports and a key, and writes the connection file (0600). Blocking.

        Raises:
            OSError: the directory or the file cannot be written.
        """
        runtime_dir.mkdir(parents=True, exist_ok=True)
        path = (runtime_dir / f"kernel-{secrets.token_hex(4)}").resolve()
        path.mkdir(mode=0o700)
        key = secrets.token_hex(32)
        info = ipc_connection(str(path / "s"), key, spec.name) if takes_ipc(spec.argv) else None
        if info is None:
            info = ConnectionInfo(
                "tcp", "127.0.0.1", dict(zip(PORTS, _free_ports(len(PORTS)), strict=True)), key, spec.name
            )
        directory = cls(path, info)
        with open(os.open(directory.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(info.to_json())
        return directory

    def remove(self) -> None:
        """Removes it all; half a dozen files at most."""
        shutil.rmtree(self.path, ignore_errors=True)  # what cannot be removed is private and holds nothing any more


def _free_ports(count: int) -> list[int]:
    # All held open at once, so that they differ. Somebody else may take one before the kernel binds it.
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


def command(spec: KernelSpec, connection_file: Path) -> list[str]:
    """The kernelspec's argv, filled in as jupyter_client does."""
    values = {"connection_file": str(connection_file), "resource_dir": spec.resource_dir, "prefix": sys.prefix}
    argv = [re.sub(r"\{([A-Za-z0-9_]+)\}", lambda found: values.get(found[1], found[0]), part) for part in spec.argv]
    if argv and argv[0] in {"python", "python3", f"python3.{sys.version_info[1]}"}:
        argv[0] = sys.executable
    return argv


def environment(spec: KernelSpec, env: Mapping[str, str]) -> dict[str, str]:
    """The kernel's environment: `env` and the kernelspec's own additions."""
    added = {name: string.Template(value).safe_substitute(env) for name, value in spec.env.items()}
    return {
        # Or ipykernel's debugger writes four lines about frozen modules to each notebook at every start.
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        **env,
        **added,
        # Then ipykernel ends by itself within 2 s of our death, however we die.
        "JPY_PARENT_PID": str(os.getpid()),
    }


class KernelProcess:
    """A kernel process, leader of its own session and process group; leaving its context ends them."""

    def __init__(self, process: trio.Process) -> None:
        self.pid: int = process.pid
        self.stderr = TailBuffer(STDERR_TAIL)
        self.stdout_bytes = 0
        self._process = process
        self._group_ended = False

    @classmethod
    async def start(cls, spec: KernelSpec, connection_file: Path, cwd: Path, env: Mapping[str, str]) -> "KernelProcess":
        """Starts it.

        Raises:
            KernelLaunchFailed: there is no such program or directory.
        """
        if "kernel_provisioner" in spec.metadata:
            name = spec.metadata["kernel_provisioner"]
            if not isinstance(name, dict) or name.get("provisioner_name") != "local-provisioner":
                raise KernelLaunchFailed(f"kernel {spec.name!r} wants a provisioner that is not supported: {name!r}")
        argv = command(spec, connection_file)
        if not argv:
            raise KernelLaunchFailed(f"kernel {spec.name!r}: its kernelspec has no command")
        try:
            process = await trio.lowlevel.open_process(
                argv,
                stdin=subprocess.DEVNULL,
                # Drained: ipykernel echoes what its children print, and 400 kB in a full pipe hung it for ever.
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env=environment(spec, env),
                start_new_session=True,
            )
        except OSError as error:
            raise KernelLaunchFailed(f"cannot start {argv[0]!r} in {str(cwd)!r}: {error.strerror or error}") from error
        except ValueError as error:  # a NUL in the arguments or the environment
            raise KernelLaunchFailed(f"cannot start {argv[0]!r}: {error}") from error
        return cls(process)

    @property
    def returncode(self) -> int | None:
        """As Popen has it: negative for a signal, None while it runs."""
        return self._process.returncode

    async def wait(self) -> None:
        """Waits until it ended; any number of tasks may."""
        await self._process.wait()

    def signal_group(self, number: signal.Signals) -> None:
        """Sends a signal to the kernel and its children; nothing if all are gone."""
        if self._group_ended:
            return  # by now the number may be somebody else's
        # PermissionError is macOS's word for a group of zombies.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def end_group(self) -> None:
        """Kills what is left of the group, right after the process ended: its children shall not outlive it."""
        self.signal_group(signal.SIGKILL)
        self._group_ended = True

    async def drain_pipes(self) -> None:
        """Reads stdout and stderr until both are closed: the one is counted, the end of the other is kept."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._drain_stdout)
            nursery.start_soon(self._drain_stderr)

    async def _drain_stdout(self) -> None:
        assert self._process.stdout is not None
        while data := await self._process.stdout.receive_some(_PIPE_CHUNK):
            self.stdout_bytes += len(data)

    async def _drain_stderr(self) -> None:
        assert self._process.stderr is not None
        while data := await self._process.stderr.receive_some(_PIPE_CHUNK):
            self.stderr.write(bytes(data))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kills the group, reaps the process and closes the pipes; shielded, at most REAP_SECONDS."""
        self.end_group()
        with trio.move_on_after(REAP_SECONDS, shield=True):
            await self._process.wait()
            for stream in (self._process.stdout, self._process.stderr):
                assert stream is not None
                await stream.aclose()
