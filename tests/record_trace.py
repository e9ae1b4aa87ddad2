"""Records a conversation with a real kernel, both ways, as a trace for tests without one.

    python -m tests.record_trace SCRIPT TRACE [KERNEL]

The script is cut at lines that start with `# %%`. A part is a cell, executed to its reply and idle; or, where the line
reads `# %% send`, it is one message as JSON, {"msg_type", "content", "buffers": [base64]?}, after which the next part
waits for the idle that it causes. `$Model` stands for the comm id of the first widget of that model, `$Model#1` for the
second.
"""

import base64
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import trio

from kernel_bridge import Kernel, find_kernelspec, run_kernel
from kernel_bridge.core.messages import CommOpen, ExecuteReply, KernelMessage, Status
from kernel_bridge.core.trace import TraceEntry, encode_entry, replay

EXECUTE = {"silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": True, "stop_on_error": False}


class Progress:
    """Which requests are over, and which widgets there are."""

    def __init__(self) -> None:
        self.replied: set[str] = set()
        self.idle: set[str] = set()
        self.comms: dict[str, list[str]] = {}
        self.news = trio.Event()

    def receive(self, messages: Sequence[KernelMessage]) -> None:
        for message in messages:
            content = message.content
            if isinstance(content, ExecuteReply):
                self.replied.add(message.parent.msg_id)
            elif isinstance(content, Status) and content.execution_state == "idle":
                self.idle.add(message.parent.msg_id)
            elif isinstance(content, CommOpen):
                model = content.data.get("state", {}).get("_model_name", content.target_name)
                self.comms.setdefault(model, []).append(content.comm_id)
        self.news.set()
        self.news = trio.Event()

    async def over(self, msg_id: str, *, replies: bool) -> None:
        while msg_id not in self.idle or (replies and msg_id not in self.replied):
            await self.news.wait()

    def with_comm_ids(self, text: str) -> str:
        return re.sub(r"\$(\w+)(?:#(\d+))?", lambda found: self.comms[found[1]][int(found[2] or 0)], text)


async def converse(kernel: Kernel, progress: Progress, script: str) -> None:
    """Plays the script's parts, each after the end of the one before."""
    for part in re.split(r"(?m)^(?=# %%)", script):
        first, _, rest = part.partition("\n")
        if first.startswith("# %% send"):
            said = json.loads(progress.with_comm_ids(rest))
            buffers = [base64.b64decode(buffer) for buffer in said.get("buffers", ())]
            await progress.over(kernel.send("shell", said["msg_type"], said["content"], buffers=buffers), replies=False)
        elif part.strip():
            code = rest if first.startswith("# %%") else part
            await progress.over(kernel.send("shell", "execute_request", {**EXECUTE, "code": code}), replies=True)


async def record(script: str, kernel_name: str = "python3") -> list[TraceEntry]:
    """Returns what was said by both sides, with `at` counted from the first message."""
    entries: list[TraceEntry] = []
    progress = Progress()
    with tempfile.TemporaryDirectory(prefix="nb-") as name:
        folder = Path(name)
        spec = find_kernelspec(kernel_name)

        async def live(task_status: trio.TaskStatus[Kernel]) -> None:
            await run_kernel(
                spec,
                progress,
                cwd=folder,
                env={**os.environ, "IPYTHONDIR": str(folder / "ipython")},
                runtime_dir=folder / "k",
                record=entries.append,
                task_status=task_status,
            )

        async with trio.open_nursery() as nursery:
            kernel: Kernel = await nursery.start(live)
            await converse(kernel, progress, script)
            await kernel.shutdown()
    start = entries[0].at
    return [msgspec.structs.replace(entry, at=round(entry.at - start, 6)) for entry in entries]


def main() -> None:
    script, trace, *kernel = sys.argv[1:]
    entries = trio.run(partial(record, Path(script).read_text(), *kernel))
    Path(trace).write_bytes(b"".join(map(encode_entry, entries)))
    # That it can be played is what it is for.
    replay(entries, Progress())


if __name__ == "__main__":
    main()
