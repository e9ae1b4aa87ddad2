"""Plays a recorded conversation of a kernel and the daemon (tests/record_widget_traces.py) to a runtime, without a kernel."""

import gzip
import json
from collections import deque
from pathlib import Path

from daemon.core.comm import SendComm
from daemon.core.runtime import Runtime
from kernel_bridge.core.trace import TraceEntry, message_of, read_trace
from tests.record_widget_traces import PEER_REQUEST, ask

TRACES = Path(__file__).parents[1] / "traces"


def trace_of(scenario: str) -> list[TraceEntry]:
    """The recorded trace of a scenario."""
    with gzip.open(TRACES / f"{scenario}.jsonl.gz") as lines:
        return list(read_trace(lines))


class TracePlayer:
    """The other end of a runtime: says what the kernel said, asks what peers asked, and expects what the daemon sent."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._steps = 0
        self._cells = 0
        self._due: deque[SendComm] = deque()
        self._ids: dict[str, str] = {}  # ids of comm messages: then -> now

    def step(self, entry: TraceEntry) -> None:
        """One message of either side. What the runtime then sends must be given to `sent` before the next."""
        if not self._steps:
            self.runtime.kernel_starting("python3", "python")
            self.session = entry.parent.session
            self.runtime.kernel_ready("python", self.session)
        self._steps += 1
        if entry.direction == "received":
            self.runtime.receive([message_of(self._of_now(entry))])
        elif entry.header.msg_type == PEER_REQUEST:
            ask(self.runtime, entry.content, entry.buffers)
        elif entry.header.msg_type == "execute_request":
            self._cells += 1
            self.runtime.add_cell(f"c{self._cells}")
            code = entry.content["code"]
            self.runtime.submit([(entry.header.msg_id, f"c{self._cells}", code)], run_id=None, stop_on_error=False)
        else:
            self._expect(entry)

    def misses(self, entry: TraceEntry) -> bool:
        """Whether the daemon sent this then, and nothing of the kind now: it may be about to, after a pause."""
        asked = (PEER_REQUEST, "execute_request")
        return entry.direction != "received" and entry.header.msg_type not in asked and not self._due

    def sent(self, message: SendComm) -> None:
        """The runtime sent this now."""
        self._due.append(message)

    def assert_all_sent(self) -> None:
        """Nothing was sent now that was not sent then."""
        assert not self._due

    def _expect(self, entry: TraceEntry) -> None:
        """The daemon sent this then: it must have sent the same now."""
        sent = self._due.popleft()
        assert (sent.msg_type, sent.content, list(sent.buffers)) == (
            entry.header.msg_type,
            entry.content,
            entry.buffers,
        )
        self._ids[entry.header.msg_id] = sent.msg_id

    def _of_now(self, entry: TraceEntry) -> TraceEntry:
        if not self._ids:
            return entry
        text = json.dumps({"parent": entry.parent.msg_id, "content": entry.content})
        for then, now in self._ids.items():
            text = text.replace(f'"{then}"', f'"{now}"')
        renamed = json.loads(text)
        return TraceEntry(
            at=entry.at,
            direction=entry.direction,
            channel=entry.channel,
            header=entry.header,
            parent=type(entry.parent)(
                msg_id=renamed["parent"], msg_type=entry.parent.msg_type, session=entry.parent.session
            ),
            metadata=entry.metadata,
            content=renamed["content"],
            buffers=entry.buffers,
        )
