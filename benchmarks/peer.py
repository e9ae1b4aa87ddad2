"""A peer in a process of its own: the core of our Python client, driven by one task, so that nothing but it is measured.

It applies what one read brought, looks at the events in it, and acknowledges once, last.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import trio

from benchmarks.workers import now, serve_async
from sync.core.binding import ROOT
from sync.core.client_session import Answer, ClientSession, Event, Received
from sync.core.identifiers import PeerId, SessionId, heads_to_hex, parse_automerge_url
from sync.core.limits import MAX_FRAME_BYTES
from sync.core.runtime_reading import read_cell
from sync.websocket import PeerSocket, connect_socket

PATIENCE = 60.0


class Peer:
    """One connection to one notebook."""

    def __init__(self) -> None:
        self._connection = AsyncExitStack()

    async def open(self, sync_url: str, token: str, notebook: str, runtime: str) -> float:
        """Connects, and returns the seconds until both documents are here and the file is in."""
        await self._connection.aclose()
        self._connection = AsyncExitStack()
        start = now()
        self._session = ClientSession(PeerId(f"bench-{uuid4()}"), parse_automerge_url(notebook))
        self._session.begin(SessionId(str(uuid4())))
        self._session.expect(parse_automerge_url(runtime))
        connected = connect_socket(sync_url, token=token, max_message_bytes=MAX_FRAME_BYTES)
        self._socket: PeerSocket = await self._connection.enter_async_context(connected)
        await self._tell()
        async with self._received(lambda received: self._value("file", "status") == "ready"):
            pass
        return now() - start

    async def close(self) -> None:
        """Leaves."""
        await self._connection.aclose()

    async def execute(self, cell_id: str, count: int) -> dict[str, Any]:
        """Executes a cell `count` times, one after another.

        Returns:
            {samples: seconds from sending the request to `execution_done` with its state in the replicas;
            sent, done: the moments of both; cpu: seconds of this process; execution_ids}.
        """
        samples, sent, done, ids = [], [], [], []
        before = time.process_time()
        for _ in range(count):
            start = now()
            execution_id = await self._send_execute(cell_id)
            async with self._done(execution_id):
                end = now()
            samples.append(end - start)
            sent.append(start)
            done.append(end)
            ids.append(execution_id)
            cell = read_cell(self._replica, cell_id)
            assert cell is not None
            assert cell["execution_id"] == execution_id
            # Others may be before it: at its thousandth result IPython warns that its cache is full.
            assert cell["outputs"][-1].get("data") == {"text/plain": "2"}, cell
        return {
            "samples": samples,
            "sent": sent,
            "done": done,
            "execution_ids": ids,
            "cpu": time.process_time() - before,
        }

    async def flood(self, cell_id: str, last_line: str | None, outputs: int) -> dict[str, Any]:
        """Executes a cell once.

        Returns:
            {seconds: from sending the request to the last line of text, or to so many outputs, in the replica;
            done: to `execution_done`; cell: as the document has it then; cpu: seconds of this process}.
        """
        before = time.process_time()
        start = now()
        execution_id = await self._send_execute(cell_id)
        end = 0.0

        def is_over(received: Received) -> bool:
            nonlocal end
            if not end and received.runtime_moved and self._is_there(cell_id, execution_id, last_line, outputs):
                end = now()
            return _is_done(received, execution_id)

        async with self._received(is_over):
            done = now()
        return {
            # Of a long stream the end is joined to what is before and too long to be in the document itself.
            "seconds": (end or done) - start,
            "done": done - start,
            "cell": read_cell(self._replica, cell_id),
            "cpu": time.process_time() - before,
        }

    async def start(self, cell_id: str) -> None:
        """Executes a cell and returns once it has started."""
        execution_id = await self._send_execute(cell_id)

        def has_started(received: Received) -> bool:
            return any(_is_event(message, "execution_started", execution_id) for message in received.messages)

        async with self._received(has_started):
            self._running = execution_id

    async def finish(self) -> None:
        """Returns once what `start` started is done."""
        async with self._done(self._running):
            pass

    async def save(self) -> None:
        """Saves the notebook to its file."""
        request_id = self._session.request("save_notebook", {})
        await self._tell()
        async with self._received(lambda received: _is_answered(received, request_id)):
            pass

    async def _send_execute(self, cell_id: str) -> str:
        execution_id = str(uuid4())
        heads = heads_to_hex(self._session.notebook.replica.heads())
        params = {"cell_id": cell_id, "execution_id": execution_id, "notebook_heads": heads}
        self._session.request("execute_cell", params)
        await self._tell()
        return execution_id

    async def _tell(self) -> None:
        if frames := self._session.next_batch():
            await self._socket.send(frames)

    @asynccontextmanager
    async def _received(self, wanted: Callable[[Received], bool]) -> AsyncIterator[None]:
        """Reads until `wanted`; the block runs before that read is acknowledged."""
        with trio.fail_after(PATIENCE):
            while True:
                received = self._session.receive(await self._socket.receive())
                assert not received.complaints, received.complaints
                if wanted(received):
                    break
                await self._tell()
        yield
        await self._tell()

    def _done(self, execution_id: str) -> Any:
        return self._received(lambda received: _is_done(received, execution_id))

    @property
    def _replica(self) -> Any:
        assert self._session.runtime is not None
        return self._session.runtime.replica

    def _value(self, *path: str | int) -> Any:
        if self._session.runtime is None:
            return None
        value, obj = None, ROOT
        for key in path:
            found = self._replica.get(obj, key)
            if found is None:
                return None
            value, obj = found
        return value

    def _is_there(self, cell_id: str, execution_id: str, last_line: str | None, outputs: int) -> bool:
        """Whether the end of a cell's outputs is in the replica, by a few reads that do not grow with them."""
        replica, obj = self._replica, ROOT
        for key in ("cells", cell_id):
            obj = replica.get(obj, key)[1]
        if replica.get(obj, "execution_id")[0] != execution_id:
            return False
        obj = replica.get(obj, "outputs")[1]
        if last_line is None or replica.length(obj) < outputs:
            return bool(replica.length(obj) == outputs)
        found = replica.get(replica.get(obj, outputs - 1)[1], "text")
        if found is None or not replica.length(found[1]):
            return False
        last, _ = replica.get(found[1], replica.length(found[1]) - 1)
        return isinstance(last, str) and last.endswith(last_line)


def _is_event(message: Any, method: str, execution_id: str) -> bool:
    return isinstance(message, Event) and message.method == method and message.params["execution_id"] == execution_id


def _is_done(received: Received, execution_id: str) -> bool:
    for message in received.messages:
        if _is_event(message, "execution_done", execution_id):
            assert message.params["status"] == "done", message.params
            return True
        assert isinstance(message, Event) or message.error is None, message.error
    return False


def _is_answered(received: Received, request_id: int) -> bool:
    for message in received.messages:
        if isinstance(message, Answer) and message.request_id == request_id:
            assert message.error is None, message.error
            return True
    return False


async def _main() -> None:
    peer = Peer()
    try:
        await serve_async(
            {
                "open": peer.open,
                "close": peer.close,
                "execute": peer.execute,
                "flood": peer.flood,
                "save": peer.save,
                "start": peer.start,
                "finish": peer.finish,
            }
        )
    finally:
        await peer.close()


if __name__ == "__main__":
    trio.run(_main)
