"""Real kernels for tests: one that runs, a sink that remembers, and code executed to its end."""

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from kernel_bridge import Kernel, KernelExit, KernelSpec, find_kernelspec, run_kernel
from kernel_bridge.core.messages import ExecuteReply, KernelMessage, Status, Stream


class RecordingSink:
    """Remembers all messages, and wakes who waits for one."""

    def __init__(self) -> None:
        self.messages: list[KernelMessage] = []
        self.batches: list[int] = []
        self._news = trio.Event()

    def receive(self, messages: Sequence[KernelMessage]) -> None:
        self.messages += messages
        self.batches.append(len(messages))
        self._news.set()
        self._news = trio.Event()

    async def wait_until(self, condition: Callable[[list[KernelMessage]], bool]) -> None:
        while not condition(self.messages):
            await self._news.wait()

    def of(self, msg_id: str) -> list[KernelMessage]:
        return [message for message in self.messages if message.parent.msg_id == msg_id]


@dataclass
class Life:
    """One kernel's life under test; `exit` is there when `over` is set."""

    sink: RecordingSink
    kernel: Kernel = field(init=False)
    exit: KernelExit = field(init=False)
    over: trio.Event = field(default_factory=trio.Event)

    def start(self, code: str, **content: Any) -> str:
        """Sends an execute_request and returns its msg_id."""
        return self.kernel.send("shell", "execute_request", {**EXECUTE, "code": code, **content})

    async def finished(self, msg_id: str) -> list[KernelMessage]:
        """Waits for reply and idle of a request, and returns all that has it as its parent."""
        reply = idle = False
        seen = 0

        def done(messages: list[KernelMessage]) -> bool:
            nonlocal reply, idle, seen
            for message in messages[seen:]:
                if message.parent.msg_id == msg_id:
                    reply = reply or isinstance(message.content, ExecuteReply)
                    idle = idle or (isinstance(message.content, Status) and message.content.execution_state == "idle")
            seen = len(messages)
            return reply and idle

        await self.sink.wait_until(done)
        return self.sink.of(msg_id)

    async def execute(self, code: str, **content: Any) -> list[KernelMessage]:
        return await self.finished(self.start(code, **content))


EXECUTE = {
    "silent": False,
    "store_history": True,
    "user_expressions": {},
    "allow_stdin": True,
    "stop_on_error": False,
}


@asynccontextmanager
async def launched(
    kernel: str | KernelSpec, home: Path, *, env: Mapping[str, str] | None = None
) -> AsyncIterator[Life]:
    """A kernel that is ready; killed at the end, if it still lives."""
    spec = kernel if isinstance(kernel, KernelSpec) else await trio.to_thread.run_sync(find_kernelspec, kernel)
    life = Life(RecordingSink())

    async def live(task_status: trio.TaskStatus[Kernel]) -> None:
        life.exit = await run_kernel(
            spec,
            life.sink,
            cwd=home,
            env={**os.environ, **(env or {})},
            runtime_dir=home / "k",
            task_status=task_status,
        )
        life.over.set()

    async with trio.open_nursery() as nursery:
        life.kernel = await nursery.start(live)
        yield life
        nursery.cancel_scope.cancel()


def reply_of(messages: list[KernelMessage]) -> ExecuteReply:
    """The one execute_reply among them."""
    [reply] = [message.content for message in messages if isinstance(message.content, ExecuteReply)]
    return reply


def text_of(messages: list[KernelMessage], name: str = "stdout") -> str:
    """All text of a stream among them, in order."""
    contents = (message.content for message in messages)
    return "".join(content.text for content in contents if isinstance(content, Stream) and content.name == name)
