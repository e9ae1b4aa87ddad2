"""Processes that measure: each takes commands as JSON lines on stdin and answers each with one JSON line.

One at a time has something to do, so that they compete only with what they measure.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any, Self

import trio

ROOT = Path(__file__).parents[1]
# A worker ends when its stdin does; a kernel that it owns needs a second.
END_SECONDS = 10.0


class WorkerFailed(Exception):
    """A command raised in the worker (its traceback is the message), or the process ended."""


class Worker:
    """The parent's end of one worker."""

    def __init__(self, module: str, process: trio.Process) -> None:
        self.pid = process.pid
        self._module = module
        self._process = process
        self._rest = b""

    @classmethod
    @asynccontextmanager
    async def start(cls, module: str, environment: Mapping[str, str]) -> AsyncIterator[Self]:
        """Runs `python -m module` until the block is left."""
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", module], stdin=PIPE, stdout=PIPE, cwd=ROOT, env=environment, start_new_session=True
        )
        try:
            yield cls(module, process)
        finally:
            with trio.CancelScope(shield=True):
                with trio.move_on_after(END_SECONDS):
                    assert process.stdin is not None
                    await process.stdin.aclose()
                    await process.wait()
                process.kill()
                await process.wait()

    async def call(self, command: str, **parameters: Any) -> Any:
        """Runs one command in the worker and returns its result.

        Raises:
            WorkerFailed: it raised, or the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"command": command, "parameters": parameters}
        await self._process.stdin.send_all(json.dumps(request).encode() + b"\n")
        while b"\n" not in self._rest:
            part = await self._process.stdout.receive_some()
            if not part:
                raise WorkerFailed(f"{self._module} ended")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(f"{self._module}: {command}\n{answer['error']}")
        return answer["result"]


def serve(commands: Mapping[str, Callable[..., Any]]) -> None:
    """The worker's end, without a loop; returns at the end of stdin."""
    # Libraries that print do not spoil the answers.
    answers = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            answer = {"result": commands[request["command"]](**request["parameters"])}
        except Exception:
            # Whatever it was, the parent must hear of it, and it decides.
            answer = {"error": traceback.format_exc()}
        os.write(answers, json.dumps(answer).encode() + b"\n")


async def serve_async(commands: Mapping[str, Callable[..., Awaitable[Any]]]) -> None:
    """The worker's end on Trio; returns at the end of stdin."""
    answers = trio.lowlevel.FdStream(os.dup(1))
    os.dup2(2, 1)
    rest = b""
    async for part in trio.lowlevel.FdStream(os.dup(0)):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            request = json.loads(line)
            try:
                answer = {"result": await commands[request["command"]](**request["parameters"])}
            except Exception:  # as above
                answer = {"error": traceback.format_exc()}
            await answers.send_all(json.dumps(answer).encode() + b"\n")


now = time.perf_counter
