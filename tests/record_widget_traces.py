"""Records what a real kernel with ipywidgets and the daemon's own state machine say to each other, for tests without one.

    python -m tests.record_widget_traces [SCENARIO ...]

Each scenario of tests/fakes/widget_scenarios.py becomes tests/traces/SCENARIO.jsonl.gz: one entry a message, both ways,
buffers in base64. What a peer asks for stands in it as an entry of type `peer_request`, where it was asked.
"""

import gzip
import math
import os
import sys
import tempfile
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from daemon.core.comm import SendComm
from daemon.core.comm_buffers import join_buffers
from daemon.core.effects import SendExecute, SendQuestion
from daemon.core.runtime import Runtime
from kernel_bridge import Kernel, find_kernelspec, run_kernel
from kernel_bridge.core.messages import Header, KernelMessage, Status
from kernel_bridge.core.trace import TraceEntry, encode_entry
from tests.fakes.widget_scenarios import SCENARIOS, Custom, Drag, Step, Update
from tests.record_trace import EXECUTE

TRACES = Path(__file__).parent / "traces"
PEER_REQUEST = "peer_request"


class Recorder:
    """A runtime that is wired to a kernel."""

    def __init__(self) -> None:
        self.entries: list[TraceEntry] = []
        self.kernel: Kernel | None = None
        self.news = trio.Event()
        self.idle: set[str] = set()
        self.runtime = Runtime(
            new_id=lambda: str(uuid.uuid4()),
            monotonic=trio.current_time,
            timestamp=lambda: "",
            wake=lambda urgency: None,
        )
        self._cells = 0

    def receive(self, messages: Sequence[KernelMessage]) -> None:
        self.runtime.receive(messages)
        for message in messages:
            if isinstance(message.content, Status) and message.content.execution_state == "idle":
                self.idle.add(message.parent.msg_id)
        self.carry_out()
        self.news.set()
        self.news = trio.Event()

    def carry_out(self) -> list[str]:
        sent = []
        for effect in self.runtime.take_effects():
            assert self.kernel is not None
            if isinstance(effect, SendExecute):
                content = {**EXECUTE, "code": effect.execution.code}
                self.kernel.send("shell", "execute_request", content, msg_id=effect.execution.execution_id)
                sent.append(effect.execution.execution_id)
            elif isinstance(effect, SendQuestion):
                content = {**EXECUTE, "code": "", "silent": True, "store_history": False}
                self.kernel.send("shell", "execute_request", content, msg_id=effect.msg_id)
            elif isinstance(effect, SendComm):
                self.kernel.send("shell", effect.msg_type, effect.content, msg_id=effect.msg_id, buffers=effect.buffers)
                sent.append(effect.msg_id)
        return sent

    async def quiet(self, *msg_ids: str) -> None:
        """Until the kernel is done with these and all else, and peers see what it made of what they set."""
        while self.runtime.deadline or self.runtime.queue.in_flight or not self.idle.issuperset(msg_ids):
            deadline = self.runtime.deadline
            with trio.move_on_at(math.inf if deadline is None else deadline):
                await self.news.wait()
                continue
            self.runtime.expire()
            self.carry_out()

    async def play(self, step: Step) -> None:
        match step:
            case str():
                self._cells += 1
                self.runtime.add_cell(f"c{self._cells}")
                self.runtime.submit([(str(uuid.uuid4()), f"c{self._cells}", step)], run_id=None, stop_on_error=False)
                await self.quiet(*self.carry_out())
            case Update():
                await self.quiet(*self._ask("update_comm", self._comm(step.model, step.index), state=dict(step.state)))
            case Custom():
                await self.quiet(*self._ask("comm_custom", self._comm(step.model), content=step.content))
            case Drag():
                comm_id = self._comm(step.model)
                for number, value in enumerate(step.values):
                    self._ask("update_comm", comm_id, state={step.trait: value})
                    if number % 5 == 0:
                        await self.news.wait()
                await self.quiet()

    def _comm(self, model: str, index: int = 0) -> str:
        found = [comm for comm in self.runtime.widgets.comms.comms.values() if comm.model_name == model]
        return found[index].comm_id

    def _ask(self, method: str, comm_id: str, **params: Any) -> list[str]:
        header = Header(msg_type=PEER_REQUEST)
        content = {"method": method, "comm_id": comm_id, **_without_bytes(params)}
        buffers = [value for value in params.get("state", {}).values() if isinstance(value, bytes)]
        self.entries.append(
            TraceEntry(
                at=trio.current_time(),
                direction="sent",
                channel="shell",
                header=header,
                parent=Header(),
                content=content,
                buffers=buffers,
            )
        )
        ask(self.runtime, content, buffers)
        return self.carry_out()


def _without_bytes(params: dict[str, Any]) -> dict[str, Any]:
    """The params with the bytes of a state named by their paths."""
    state = params.get("state")
    if state is None:
        return params
    names = [name for name, value in state.items() if isinstance(value, bytes)]
    plain = {name: value for name, value in state.items() if name not in names}
    return {**params, "state": plain, "buffer_paths": [[name] for name in names]}


def ask(runtime: Runtime, content: dict[str, Any], buffers: Sequence[bytes]) -> None:
    """Does what a `peer_request` says."""
    widgets = runtime.widgets
    if content["method"] == "update_comm":
        widgets.update_by_peer(content["comm_id"], join_buffers(content["state"], content["buffer_paths"], buffers))
    else:
        widgets.custom_by_peer(content["comm_id"], content["content"], buffers)
    runtime.take_widgets()


async def record(steps: Sequence[Step]) -> list[TraceEntry]:
    """Plays a scenario; what both sides said, with `at` counted from the first message."""
    recorder = Recorder()
    with tempfile.TemporaryDirectory(prefix="nb-") as name:
        folder = Path(name)

        async def live(task_status: trio.TaskStatus[Kernel]) -> None:
            await run_kernel(
                find_kernelspec("python3"),
                recorder,
                cwd=folder,
                env={**os.environ, "IPYTHONDIR": str(folder / "ipython"), "MPLCONFIGDIR": str(folder)},
                runtime_dir=folder / "k",
                record=recorder.entries.append,
                task_status=task_status,
            )

        async with trio.open_nursery() as nursery:
            recorder.kernel = await nursery.start(live)
            assert recorder.kernel is not None
            recorder.runtime.kernel_starting("python3", "python")
            recorder.runtime.kernel_ready("python", recorder.kernel.session)
            for step in steps:
                await recorder.play(step)
            await recorder.kernel.shutdown()
    start = recorder.entries[0].at
    return [msgspec.structs.replace(entry, at=round(entry.at - start, 6)) for entry in recorder.entries]


def main() -> None:
    TRACES.mkdir(exist_ok=True)
    for name in sys.argv[1:] or SCENARIOS:
        entries = trio.run(partial(record, SCENARIOS[name]))
        lines = b"".join(map(encode_entry, entries))
        (TRACES / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
        print(f"{name}: {len(entries)} messages, {len(lines)} bytes")


if __name__ == "__main__":
    main()
