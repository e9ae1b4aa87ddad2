"""A kernel that says what a cell tells it to, right or wrong: `python scripted_kernel.py CONNECTION_FILE OPTION...`.

A cell's source is Python that runs with the words of `Script` in its namespace, and nothing is said by itself: no busy,
no reply, no idle. So a cell can be a kernel that breaks any rule. All else (kernel_info, shutdown, the heartbeat, an
execution that is silent) is in order. Messages are made by jupyter_client's Session, or byte by byte.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.session import Session, new_id, utcnow

# Run as a program, this file does not know where the repository is.
sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.fakes.kernel_wires import KernelWire

SCRIPT = Path(__file__)
ARGV = [sys.executable, str(SCRIPT), "{connection_file}"]
WIRED_ARGV = [*ARGV, "--wired"]  # its connections can be broken
SUBSHELLS = "--subshells"  # it says that it has them, and never makes one
INFO = {
    "status": "ok",
    "protocol_version": "5.4",
    "implementation": "scripted",
    "implementation_version": "1",
    "language_info": {"name": "script", "version": "1"},
    "banner": "",
}


class Script:
    """One request under way, and the words to answer it with; `parent` is its header."""

    def __init__(self, kernel: "ScriptedKernel", identities: list[bytes], request: dict[str, Any]) -> None:
        self.kernel = kernel
        self.identities = identities
        self.request = request
        self.parent: Any = request["header"]

    def words(self) -> dict[str, Any]:
        """What a cell may say."""
        public = {name: getattr(self, name) for name in dir(self) if not name.startswith("_")}
        return {
            **public,
            "session": lambda: self.kernel.session,
            "time": time,
            "os": os,
            "signal": signal,
            "json": json,
            "threading": threading,
        }

    # In order.

    def busy(self) -> None:
        self.say("status", {"execution_state": "busy"})

    def idle(self) -> None:
        self.say("status", {"execution_state": "idle"})

    def begin(self) -> None:
        """As a kernel does: busy and execute_input."""
        self.busy()
        self.kernel.count += 1
        self.say("execute_input", {"code": self.request["content"]["code"], "execution_count": self.kernel.count})

    def end(self, status: str = "ok") -> None:
        """As a kernel does: reply and idle."""
        self.reply(status)
        self.idle()

    def stdout(self, text: str, name: str = "stdout") -> None:
        self.say("stream", {"name": name, "text": text})

    def reply(self, status: str = "ok", **content: Any) -> None:
        self.answer("execute_reply", {"status": status, "execution_count": self.kernel.count, **content})

    # As one likes.

    def say(self, msg_type: str, content: Any, *, parent: Any = ..., buffers: list[bytes] | None = None) -> None:
        """A message on iopub; `parent` is a header, {} or None."""
        self.send_frames("iopub", self.frames(msg_type, content, parent, buffers))

    def answer(self, msg_type: str, content: Any, *, parent: Any = ..., channel: str = "shell") -> None:
        """A reply to whoever asked."""
        self.send_frames(channel, self.frames(msg_type, content, parent, None))

    def frames(
        self, msg_type: str, content: Any, parent: Any = ..., buffers: list[bytes] | None = None, *, key: bytes = b""
    ) -> list[bytes]:
        """A signed message, from the delimiter on; with another `key` the signature is wrong."""
        session = self.kernel.session
        header = {
            "msg_id": new_id(),
            "msg_type": msg_type,
            "username": "scripted",
            "session": session.session,
            "date": utcnow().isoformat(),
            "version": "5.4",
        }
        parts = [header, self.parent if parent is ... else parent, {}, content]
        signed = [part if isinstance(part, bytes) else json.dumps(part, default=str).encode() for part in parts]
        signer = session if not key else Session(key=key, signature_scheme="hmac-sha256")
        return [b"<IDS|MSG>", signer.sign(signed), *signed, *(buffers or [])]

    def send_frames(self, channel: str, frames: list[bytes]) -> None:
        """Any frames at all."""
        socket = self.kernel.sockets[channel]
        socket.poll(0)  # a ROUTER that only sends takes no notice of a peer that came back
        socket.send_multipart([*([b"topic"] if channel == "iopub" else self.identities), *frames])

    def ask(self, prompt: str) -> str:
        """input(): asks and waits for the answer."""
        content = {"prompt": prompt, "password": False}
        self.answer("input_request", content, channel="stdin")
        _, message = self.kernel.session.recv(self.kernel.sockets["stdin"], mode=0)
        return str(message["content"]["value"])

    def hang_up(self, *channels: str) -> None:
        """Breaks the connections of these channels: until `listen`, what is said on them is lost. For `--wired`."""
        for channel in channels:
            self.kernel.wires[channel].cut()

    def listen(self, *channels: str) -> None:
        """Takes connections again."""
        for channel in channels:
            self.kernel.wires[channel].mend()

    def say_of(self, request_type: str, content: Any) -> None:
        """From now on this is the kernel's answer to requests of this type."""
        self.kernel.answers[request_type] = content

    def handle_comms(self, code: str) -> None:
        """From now on the kernel does this for a message to a comm, and says nothing else."""
        self.kernel.comm_handler = code

    def flush(self) -> None:
        """Returns when libzmq has had time to hand on what was said; what it holds when the process dies is lost."""
        time.sleep(0.2)


class ScriptedKernel:
    """The sockets, and a loop that takes one request after the other."""

    def __init__(self, connection: Mapping[str, Any], *, wired: bool, subshells: bool) -> None:
        self.count = 0
        self.comm_handler = "busy(); idle()"
        self.session = Session(key=connection["key"].encode(), signature_scheme=connection["signature_scheme"])
        self.ended = False
        context = zmq.Context()
        kinds = {"iopub": zmq.PUB, "shell": zmq.ROUTER, "control": zmq.ROUTER, "stdin": zmq.ROUTER, "hb": zmq.ROUTER}
        self.sockets: dict[str, zmq.Socket[bytes]] = {}
        self.wires: dict[str, KernelWire] = {}
        features = {"supported_features": ["kernel subshells"]} if subshells else {}
        self.answers: dict[str, Any] = {"kernel_info_request": {**INFO, **features}}
        for name, kind in kinds.items():
            socket = self.sockets[name] = context.socket(kind)
            socket.setsockopt(zmq.SNDHWM, 0)
            socket.setsockopt(zmq.LINGER, 0)
            if kind == zmq.ROUTER:
                socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # as ipykernel does: a peer that comes back is the same one
            port = connection[f"{name}_port"]
            if wired:
                self.wires[name] = KernelWire(port, socket.bind_to_random_port(f"tcp://{connection['ip']}"))
            else:
                socket.bind(f"tcp://{connection['ip']}:{port}")
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while True:
            self.sockets["hb"].send_multipart(self.sockets["hb"].recv_multipart())

    def run(self) -> None:
        """Answers requests until it is told to shut down."""
        poller = zmq.Poller()
        for name in ("shell", "control"):
            poller.register(self.sockets[name], zmq.POLLIN)
        while not self.ended:
            try:
                for socket, _ in poller.poll():
                    self._take("control" if socket is self.sockets["control"] else "shell")
            except KeyboardInterrupt:
                continue

    def _take(self, channel: str) -> None:
        identities, request = self.session.recv(self.sockets[channel], copy=True)
        if request is None:
            return
        script = Script(self, identities, request)
        msg_type = request["header"]["msg_type"]
        if msg_type == "execute_request" and request["content"]["silent"]:
            script.busy()
            script.end()
        elif msg_type == "execute_request":
            try:
                exec(request["content"]["code"], script.words())
            except KeyboardInterrupt:
                script.end("error")
        elif msg_type in self.answers:
            script.busy()
            script.answer(msg_type.replace("_request", "_reply"), self.answers[msg_type])
            script.idle()
        elif msg_type.startswith("comm_"):
            exec(self.comm_handler, script.words())
        elif msg_type == "shutdown_request":
            script.answer("shutdown_reply", {"status": "ok", "restart": False}, channel=channel)
            self.ended = True


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ScriptedKernel(
        json.loads(Path(sys.argv[1]).read_text()), wired="--wired" in sys.argv, subshells=SUBSHELLS in sys.argv
    ).run()
