"""What the rows share: the processes, notebooks to work on, rounds in which floor and daemon take turns."""

import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import trio

from benchmarks.daemon_under_test import Daemon, Notebook, running_daemon
from benchmarks.workers import Worker

Floor = TypeVar("Floor")
Ours = TypeVar("Ours")

CROWDS = 2  # processes; more would compete with the daemon for the cores they are to leave to it


@dataclass(frozen=True, slots=True)
class Bench:
    """One run.

    Attributes:
        floor: jupyter_client with a kernel.
        peer: our client.
        crowds: processes for many minimal peers.
        daemon: as its users start it.
        directory: short-lived.
        environment: of every process, with folders of its own, so that nothing of the user's is read or written.
    """

    floor: Worker
    peer: Worker
    crowds: list[Worker]
    daemon: Daemon
    directory: Path
    environment: Mapping[str, str]

    @asynccontextmanager
    async def notebook(
        self, cells: Mapping[str, str], *, daemon: Daemon | None = None, outputs: int = 0
    ) -> AsyncIterator[Notebook]:
        """A notebook of these code cells (id to source), each with so many outputs, which the peer has joined."""
        daemon = daemon or self.daemon
        path = daemon.root / f"{len(list(daemon.root.iterdir()))}.ipynb"
        path.write_text(_ipynb(cells, outputs))
        notebook = await daemon.open(path.name)
        await self.join(notebook, daemon)
        yield notebook
        await self.peer.call("close")
        await daemon.close(notebook)

    async def join(self, notebook: Notebook, daemon: Daemon) -> float:
        """The peer joins; seconds until it has everything."""
        seconds: float = await self.peer.call("open", url=daemon.url, token=daemon.token, notebook=notebook.notebook)
        return seconds

    @asynccontextmanager
    async def crowd(self, count: int, *notebooks: Notebook) -> AsyncIterator[None]:
        """`count` minimal peers that have these notebooks open, both documents of each."""
        documents = [url for notebook in notebooks for url in (notebook.notebook, notebook.runtime)]
        parameters = {"sync_url": self.daemon.sync_url, "token": self.daemon.token, "documents": documents}
        for number, worker in enumerate(self.crowds):
            share = count // CROWDS + (number < count % CROWDS)
            await worker.call("join", count=share, **parameters)
        yield
        for worker in self.crowds:
            await worker.call("leave")

    @asynccontextmanager
    async def watched_daemon(self, what: str) -> AsyncIterator[tuple[Daemon, Callable[[], Awaitable[Any]]]]:
        """A daemon watched from inside (`pauses`, `roll-overs` or `timeline`), and a function that takes its report."""
        read_fd, write_fd = os.pipe()
        async with trio.lowlevel.FdStream(read_fd) as reports, trio.lowlevel.FdStream(write_fd):
            # The other end belongs to the daemon, for which it must block.
            os.set_blocking(write_fd, True)
            program = ("-m", "benchmarks.instrumented_daemon", what, str(write_fd))
            place = self.directory / what
            async with running_daemon(place, self.environment, program=program, pass_fds=(write_fd,)) as daemon:

                async def report() -> Any:
                    os.kill(daemon.pid, signal.SIGUSR1)
                    line = b""
                    while not line.endswith(b"\n"):
                        line += await reports.receive_some()
                    return json.loads(line)

                yield daemon, report


async def in_turn(
    rounds: int, floor: Callable[[], Awaitable[Floor]], ours: Callable[[], Awaitable[Ours]]
) -> list[tuple[Floor, Ours]]:
    """Runs both in each round, every other round in the other order, so that what drifts hits both."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            second = await ours()
            first = await floor()
        else:
            first = await floor()
            second = await ours()
        pairs.append((first, second))
    return pairs


@asynccontextmanager
async def running_bench(directory: Path) -> AsyncIterator[Bench]:
    """Starts everything that the rows need."""
    folders = {
        "HOME": "home",
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "XDG_CACHE_HOME": "cache",
        "XDG_STATE_HOME": "state",
    }
    for folder in folders.values():
        (directory / folder).mkdir(mode=0o700)
    environment = {**os.environ, **{variable: str(directory / folder) for variable, folder in folders.items()}}
    async with (
        Worker.start("benchmarks.floor", environment) as floor,
        Worker.start("benchmarks.peer", environment) as peer,
        Worker.start("benchmarks.crowd", environment) as first,
        Worker.start("benchmarks.crowd", environment) as second,
        running_daemon(directory / "daemon", environment) as daemon,
    ):
        await floor.call("start", directory=str(directory))
        yield Bench(floor, peer, [first, second], daemon, directory, environment)


def _ipynb(cells: Mapping[str, str], outputs: int) -> str:
    return json.dumps({
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "cells": [
            {
                "cell_type": "code",
                "id": cell_id,
                "source": source,
                "metadata": {},
                "execution_count": None,
                "outputs": [
                    {"output_type": "stream", "name": "stdout", "text": f"output {number} of {cell_id}\n"}
                    if number % 2
                    else {"output_type": "display_data", "data": {"text/plain": f"{number}"}, "metadata": {}}
                    for number in range(outputs)
                ],
            }
            for cell_id, source in cells.items()
        ],
    })  # fmt: skip
