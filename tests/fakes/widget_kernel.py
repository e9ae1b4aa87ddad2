"""A kernel with ipywidgets, as far as a daemon can tell: ipykernel's order of messages, and what widgets do with theirs.

It has two queues, so that messages can cross: what it said and nobody heard yet, and what was sent to it and it has not
read. Within a cell it reads nothing, but where the cell awaits (then without busy and idle, as ipykernel 7 does).
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from daemon.core.comm import SendComm
from daemon.core.comm_buffers import join_buffers, split_buffers
from daemon.core.effects import SendExecute, SendQuestion
from daemon.core.runtime import Runtime
from kernel_bridge.core import messages as k
from sync.core.batch import PendingEvent
from sync.core.urgency import Urgency
from tests.fakes.runtime_document import RuntimeDocument

SESSION = "ours"


@dataclass
class Model:
    """One widget in the kernel. `maximum` is its validator; `entered` is how often its `with` block is open.

    A `value` that is no number is refused without a word, where there is a maximum.
    """

    comm_id: str
    state: dict[str, Any]
    maximum: float = float("inf")
    entered: int = 0


@dataclass
class WidgetKernel:
    """`said` is what the daemon has not heard, `inbox` what the kernel has not read.

    `stays_in_callbacks`: a custom message runs a handler until `finish`, as an execution runs its cell.
    """

    echo: bool = True
    stays_in_callbacks: bool = False
    models: dict[str, Model] = field(default_factory=dict)
    said: deque[k.KernelMessage] = field(default_factory=deque)
    inbox: deque[SendComm | SendExecute | SendQuestion] = field(default_factory=deque)
    parent: k.Header = field(default_factory=k.Header)
    running: str | None = None
    update_messages: int = 0
    update_bytes: int = 0
    questions: int = 0
    _count: int = 0
    _in_callback: bool = False

    # What it says.

    def say(
        self,
        content: k.Content,
        *,
        channel: k.Channel = "iopub",
        buffers: Sequence[bytes] = (),
        parent: k.Header | None = None,
    ) -> None:
        self.said.append(
            k.KernelMessage(
                channel=channel,
                header=k.Header(msg_id="said"),
                parent=parent or self.parent,
                metadata={},
                content=content,
                buffers=list(buffers),
            )
        )

    def send_state(self, comm_id: str, state: Mapping[str, Any], method: str = "update") -> None:
        plain, paths, buffers = split_buffers(state)
        data = {"method": method, "state": json.loads(json.dumps(plain)), "buffer_paths": paths}
        self.say(k.CommMsg(comm_id=comm_id, data=data), buffers=buffers)

    # What it reads.

    def read(self) -> bool:
        """Takes the next message, unless a cell runs; False if it can't or there is none."""
        if self.running is not None or not self.inbox:
            return False
        message = self.inbox.popleft()
        if isinstance(message, SendExecute):
            self.running = message.execution.execution_id
            self.parent = k.Header(msg_id=self.running, msg_type="execute_request", session=SESSION)
            self.say(k.Status(execution_state="busy"))
            self._count += 1
            self.say(k.ExecuteInput(code=message.execution.code, execution_count=self._count))
        elif isinstance(message, SendQuestion):
            self.parent = k.Header(msg_id=message.msg_id, msg_type="execute_request", session=SESSION)
            self.say(k.Status(execution_state="busy"))
            self.say(k.ExecuteReply(status="ok"), channel="shell")
            self.say(k.Status(execution_state="idle"))
        else:
            self.parent = k.Header(msg_id=message.msg_id, msg_type=message.msg_type, session=SESSION)
            self.say(k.Status(execution_state="busy"))
            if self.stays_in_callbacks and message.content.get("data", {}).get("method") == "custom":
                self.running, self._in_callback = message.msg_id, True
                return True
            self._take(message)
            self.say(k.Status(execution_state="idle"))
        return True

    def read_within_cell(self) -> bool:
        """A cell awaits: comm messages are taken meanwhile, without busy and idle."""
        if self.running is None or not self.inbox or not isinstance(self.inbox[0], SendComm):
            return False
        message, cell = self.inbox.popleft(), self.parent
        assert isinstance(message, SendComm)
        self.parent = k.Header(msg_id=message.msg_id, msg_type=message.msg_type, session=SESSION)
        self._take(message)
        self.parent = cell
        return True

    def finish(self, status: str = "ok") -> None:
        """The cell, or the handler, ends."""
        if self.running is not None:
            for model in self.models.values():
                if model.entered:
                    model.entered = 1
                    self.leave(model.comm_id)
            if not self._in_callback:
                self.say(k.ExecuteReply(status=status, execution_count=self._count), channel="shell")
            self.say(k.Status(execution_state="idle"))
            self.running, self._in_callback = None, False

    def _take(self, message: SendComm) -> None:
        if message.msg_type == "comm_info_request":
            comms = {comm_id: {"target_name": "jupyter.widget"} for comm_id in self.models}
            self.say(k.Reply(raw={"status": "ok", "comms": comms}), channel="shell")
            return
        model = self.models.get(message.content.get("comm_id", ""))
        if message.msg_type == "comm_open" and message.content["target_name"] == "jupyter.widget":
            self._open_for_peer(message)
        if message.msg_type != "comm_msg" or model is None:
            return
        data = message.content["data"]
        if data.get("method") == "request_state":
            self.questions += 1
            self.send_state(model.comm_id, model.state)
        if data.get("method") != "update":
            return
        self.update_messages += 1
        self.update_bytes += len(json.dumps(data))
        state = join_buffers(json.loads(json.dumps(data["state"])), data["buffer_paths"], message.buffers)
        if self.echo:
            self.send_state(model.comm_id, state, "echo_update")
        for name, value in state.items():
            if name == "value" and isinstance(value, str) and model.maximum < float("inf"):
                continue
            before = model.state.get(name, ...)
            cast = int(value) if isinstance(before, int) and isinstance(value, float) else value
            if cast == before:
                continue  # it changes nothing, and of that nothing is said
            taken = min(cast, model.maximum) if name == "value" and isinstance(cast, int | float) else cast
            model.state[name] = taken
            if taken != value:
                self.send_state(model.comm_id, {name: taken})

    def _open_for_peer(self, message: SendComm) -> None:
        """As ipywidgets does: a model with its defaults and a layout of its own, then what the peer sent."""
        comm_id, data = message.content["comm_id"], message.content["data"]
        self.open(f"{comm_id}-layout", "LayoutModel", {"width": None})
        self.models[comm_id] = Model(
            comm_id, {"value": 0, "max": 100, "layout": f"IPY_MODEL_{comm_id}-layout", "style": None}, 100
        )
        update = {"comm_id": comm_id, "data": {"buffer_paths": [], **data, "method": "update"}}
        self._take(SendComm(message.msg_id, "comm_msg", update, message.buffers))

    # What code in it does.

    def open(self, comm_id: str, model_name: str, state: Mapping[str, Any], maximum: float = float("inf")) -> None:
        full = {"_model_module": "@jupyter-widgets/controls", "_model_name": model_name, **state}
        self.models[comm_id] = Model(comm_id, dict(full), maximum)
        plain, paths, buffers = split_buffers(full)
        data = {"state": plain, "buffer_paths": paths}
        self.say(k.CommOpen(comm_id=comm_id, target_name="jupyter.widget", data=data), buffers=buffers)

    def open_output(self, comm_id: str) -> None:
        self.open(comm_id, "OutputModel", {"outputs": [], "msg_id": "", "layout": "IPY_MODEL_l"})

    def close(self, comm_id: str) -> None:
        if self.models.pop(comm_id, None) is not None:
            self.say(k.CommClose(comm_id=comm_id))

    def set(self, comm_id: str, **state: Any) -> None:
        """An assignment: sent if it is one, since traits that stay equal say nothing."""
        model = self.models[comm_id]
        changed = {name: value for name, value in state.items() if model.state.get(name) != value}
        model.state.update(changed)
        if changed:
            self.send_state(comm_id, changed)

    def enter(self, comm_id: str) -> None:
        model = self.models[comm_id]
        self.set(comm_id, msg_id=self.parent.msg_id)
        model.entered += 1

    def leave(self, comm_id: str) -> None:
        model = self.models[comm_id]
        if model.entered:
            model.entered -= 1
            if not model.entered:
                self.set(comm_id, msg_id="")

    def print(self, text: str, name: str = "stdout") -> None:
        self.say(k.Stream(name=name, text=text))

    def display(self, text: str, display_id: str | None = None) -> None:
        transient = None if display_id is None else k.Transient(display_id=display_id)
        self.say(k.DisplayData(data={"text/plain": text}, transient=transient))

    def update_display(self, display_id: str, text: str) -> None:
        transient = k.Transient(display_id=display_id)
        self.say(k.UpdateDisplayData(data={"text/plain": text}, transient=transient))

    def clear(self, *, wait: bool = False) -> None:
        self.say(k.ClearOutput(wait=wait))

    def error(self, ename: str) -> None:
        self.say(k.Error(ename=ename, evalue="", traceback=["Traceback"]))

    def outputs(self, comm_id: str) -> list[dict[str, Any]]:
        """`out.outputs` as code in the kernel reads it."""
        outputs: list[dict[str, Any]] = self.models[comm_id].state["outputs"]
        return outputs

    def append(self, comm_id: str, output: dict[str, Any]) -> None:
        """`append_stdout` and `append_display_data`: the kernel's own list, and one more."""
        self.set(comm_id, outputs=[*self.outputs(comm_id), output])


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def display(text: str) -> dict[str, Any]:
    return {"output_type": "display_data", "data": {"text/plain": text}, "metadata": {}}


class Notebook:
    """A runtime, its document and a kernel: nothing moves between them but by `hear`, `deliver` and `commit`."""

    def __init__(self, *cells: str, echo: bool = True) -> None:
        self.now = 0.0
        self.document = RuntimeDocument()
        self.kernel = WidgetKernel(echo=echo)
        self.events: list[PendingEvent] = []
        self._ids = 0
        self._runs = 0
        self.runtime = Runtime(
            new_id=self._new_id, monotonic=lambda: self.now, timestamp=lambda: f"t{self.now}", wake=self._wake
        )
        for cell in cells or ("a", "b"):
            self.runtime.add_cell(cell)
        self.start_kernel()

    def _new_id(self) -> str:
        self._ids += 1
        return f"id{self._ids}"

    def _wake(self, urgency: Urgency) -> None:
        del urgency

    def start_kernel(self) -> None:
        self.runtime.kernel_starting("python3", "python")
        self.runtime.kernel_ready("python", SESSION)
        self.collect()

    def restart(self) -> None:
        """The kernel's process ends, with all that it said and nobody heard; another one starts."""
        self.runtime.kernel_gone("restart")
        self.kernel = WidgetKernel(echo=self.kernel.echo, stays_in_callbacks=self.kernel.stays_in_callbacks)
        self.runtime.take_effects()
        self.start_kernel()

    def reconnect(self) -> None:
        """The connection breaks, with all that was on its way, and is made again."""
        self.kernel.inbox.clear()
        self.kernel.said.clear()
        self.runtime.reconnected()
        self.collect()

    def collect(self) -> list[SendComm]:
        """Puts what the daemon sends into the kernel's inbox; the comm messages among it."""
        sent = []
        for effect in self.runtime.take_effects():
            assert isinstance(effect, SendComm | SendExecute | SendQuestion)
            self.kernel.inbox.append(effect)
            if isinstance(effect, SendComm):
                sent.append(effect)
        return sent

    def hear(self, count: int = 1_000_000) -> list[SendComm]:
        """The daemon takes so many messages of the kernel, one by one; what it sends for them."""
        sent = []
        for _ in range(min(count, len(self.kernel.said))):
            self.runtime.receive([self.kernel.said.popleft()])
            sent += self.collect()
        return sent

    def commit(self) -> RuntimeDocument:
        """One commit of what waits; the document after it."""
        batch = self.runtime.drain()
        self.events += [notice for notice in batch.notices if isinstance(notice, PendingEvent)]
        self.document.commit(batch.mutations)
        return self.document

    def settle(self) -> RuntimeDocument:
        """Everything is read and heard, on both sides; the document then."""
        self.hear()
        while self.kernel.read() or self.kernel.said or self.pause():
            self.hear()
        return self.commit()

    def pause(self) -> bool:
        """Lets the time pass after which what the kernel made of a peer's values is shown; False if none is due."""
        return self.runtime.widgets.forwarding.deadline is not None and self.pass_deadline()

    def pass_deadline(self) -> bool:
        """Lets the time pass until something is due, an answer that is lost for example; False if nothing is."""
        if self.runtime.deadline is None:
            return False
        self.now = max(self.now, self.runtime.deadline)
        self.runtime.expire()
        self.collect()
        return True

    def submit(self, cell: str = "a") -> str:
        self._runs += 1
        execution_id = f"run{self._runs}"
        self.runtime.submit([(execution_id, cell, "code")], run_id=None, stop_on_error=False)
        self.collect()
        return execution_id

    def begin(self, cell: str = "a") -> WidgetKernel:
        """A cell runs now; it ends by `kernel.finish`."""
        self.submit(cell)
        while self.kernel.running is None:
            assert self.kernel.read()
            self.hear()
        return self.kernel

    def click(self, comm_id: str) -> None:
        """A peer clicks: a custom message is on its way."""
        self.runtime.widgets.custom_by_peer(comm_id, {"event": "click"}, [])
        self.runtime.take_widgets()
        self.collect()

    def end(self) -> list[SendComm]:
        self.kernel.finish()
        return self.hear()

    def set_by_peer(self, comm_id: str, **state: Any) -> list[SendComm]:
        self.runtime.widgets.update_by_peer(comm_id, state)
        self.runtime.take_widgets()
        return self.collect()

    def widget(
        self, comm_id: str = "s", model_name: str = "IntSliderModel", maximum: float = 100, **state: Any
    ) -> None:
        """A widget made in cell a, committed, all read and heard."""
        kernel = self.begin("a")
        kernel.open(comm_id, model_name, {"value": 0, **state}, maximum)
        self.end()
        self.settle()

    def output_widget(self, *comm_ids: str) -> None:
        kernel = self.begin("a")
        for comm_id in comm_ids:
            kernel.open_output(comm_id)
        self.end()
        self.settle()
