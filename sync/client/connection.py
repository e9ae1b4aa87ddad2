"""Keeps a client session connected: the socket, a loop that reads, a loop that writes, and what to do when it breaks.

A lost connection is made anew, with the same peer id, and both documents go on from where they were. What was asked and not
answered by then has failed for whoever asked.
"""

import logging
import math
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import trio

from sync.client.errors import ConnectionLost, NotebookError, ProtocolError, RequestFailed
from sync.client.http import Address, refusal
from sync.core import frames
from sync.core.client_session import Answer, ClientSession, Event, Received, RequestInvalid, RequestTooLarge
from sync.core.identifiers import SessionId
from sync.core.jsonrpc import ErrorCode
from sync.core.limits import MAX_FRAME_BYTES
from sync.websocket import PeerSocket, SocketClosed, SocketProtocolError, SocketRefused, connect_socket, keepalive

# Not structlog, as in the daemon: this runs in other people's programs, whose output is theirs.
log = logging.getLogger(__name__)

# From the open socket to the daemon's answer to join: one round trip.
_HANDSHAKE_SECONDS = 10
# Pauses between attempts to connect: 0.1 s, doubled each time up to this, and up to half more or less of it, so that the
# peers of a daemon that starts again do not come all at once.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
# Turns of the loop before an acknowledgement that goes alone: the frames of one write of the daemon come out of the socket
# one in a turn, and whoever waits for what they bring should act first (measured: 0.3 ms of an execution's 5).
_TURNS_BEFORE_ACKNOWLEDGING = 3
# How long what is due may take to be written when the notebook is closed.
_FLUSH_SECONDS = 5
# Requests that the daemon takes in order and that we have under way; it refuses more than 64 of one peer, and the rest are
# for what must not wait behind them: interrupts, completions.
_ORDERED_IN_FLIGHT = 48

_Loop: TypeAlias = Callable[[PeerSocket], Awaitable[None]]


class _Pending:
    """A request under way. `take` gets its result, `settled` is called whatever comes of it."""

    def __init__(
        self,
        take: Callable[[dict[str, Any]], None] | None = None,
        settled: Callable[[], None] | None = None,
    ) -> None:
        self.done = trio.Event()
        self._settled = settled
        self.result: dict[str, Any] = {}
        self.error: NotebookError | None = None
        self._take = take

    def answer(self, answer: Answer) -> None:
        if answer.result is None:
            self.error = request_failed(answer.error or {})
        else:
            self.result = answer.result
            if self._take is not None:
                self._take(answer.result)
        self._settle()

    def fail(self, error: NotebookError) -> None:
        self.error = error
        self._settle()

    def _settle(self) -> None:
        self.done.set()
        if self._settled is not None:
            self._settled()


class Connection:
    """One client session and its socket, over any number of connections.

    Args:
        session: what is said and heard.
        on_event: called for each event, in order with the answers.
        on_received: called once for each read, before what waits for answers and changes goes on.
        on_ended: called when there will be no more connection.
        reconnect_seconds: how long a lost connection is tried to be made anew.
    """

    def __init__(
        self,
        address: Address,
        session: ClientSession,
        *,
        on_event: Callable[[Event], None],
        on_received: Callable[[Received], None],
        on_ended: Callable[[], None],
        reconnect_seconds: float,
    ) -> None:
        self.session = session
        self.connected = False
        self._address = address
        self._on_event = on_event
        self._on_received = on_received
        self._on_ended = on_ended
        self._reconnect_seconds = reconnect_seconds
        self._pending: dict[int, _Pending] = {}
        self._ordered = trio.Semaphore(_ORDERED_IN_FLIGHT)
        self._given_up: NotebookError | None = None
        self._failure: NotebookError | None = None
        self._last_complaint = ""
        self._abandoned = False
        self._life = trio.CancelScope()
        self._loops = trio.CancelScope()
        # The attempt to connect again that is under way: it ends with the time for it, or when nobody wants it any more.
        self._attempt = trio.CancelScope()
        self._woken = trio.Event()
        self._urgent = False
        self._idle = trio.Event()
        self._changed = trio.Event()
        self._joined = trio.Event()
        self._closing = trio.Event()
        self._ended = trio.Event()

    # What the notebook calls.

    def wake(self) -> None:
        """Says that there is something to write."""
        self._urgent = True
        self._woken.set()

    def changed(self) -> None:
        """Lets everyone who waits in `wait_changed` look again."""
        self._changed.set()
        self._changed = trio.Event()

    @property
    def next_change(self) -> trio.Event:
        """Set at the next change of a document or of the connection."""
        return self._changed

    async def wait_changed(self) -> None:
        """Returns when a document, or the connection, has changed.

        Raises:
            ConnectionLost: there will be no more changes.
            ProtocolError: likewise.
        """
        self.require_alive()
        await self._changed.wait()
        self.require_alive()

    @property
    def closed(self) -> bool:
        """Whether it was meant to end."""
        return self._closing.is_set()

    def ended_by(self) -> NotebookError | None:
        """What ended the connection for good; None while it lasts, or is being made anew."""
        return None if self._given_up is None else type(self._given_up)(*self._given_up.args)

    def require_alive(self) -> None:
        """Raises what ended the connection for good, if something did."""
        error = self.ended_by()
        if error is not None:
            raise error

    async def wait_connected(self) -> None:
        """Returns once requests can be made (again).

        Raises:
            ConnectionLost: it was tried for too long.
            ProtocolError: there is no point in trying.
        """
        while not self.connected:
            await self.wait_changed()

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        take: Callable[[dict[str, Any]], None] | None = None,
        *,
        ordered: bool = True,
    ) -> dict[str, Any]:
        """Asks the daemon, and returns the result when the replicas hold what it speaks of.

        Args:
            method: which, of docs/wire.md.
            params: its parameters.
            take: called with the result at its place among the events.
            ordered: whether the daemon takes it behind those before it.

        Raises:
            RequestFailed: the daemon says no.
            ConnectionLost: there is no connection, or it broke before the answer came.
        """
        if not ordered:
            return await self._ask(method, params, take)
        async with self._ordered:
            return await self._ask(method, params, take)

    async def _ask(
        self, method: str, params: Mapping[str, Any], take: Callable[[dict[str, Any]], None] | None
    ) -> dict[str, Any]:
        self.require_alive()
        if not self.connected:
            raise ConnectionLost("not connected to the daemon at the moment")
        try:
            request_id = self.session.request(method, params)
        except RequestTooLarge as error:
            code = ErrorCode.TOO_LARGE
            raise RequestFailed(int(code), code.reason, {}, str(error)) from error
        except RequestInvalid as error:
            code = ErrorCode.INVALID_PARAMS
            raise RequestFailed(int(code), code.reason, {}, str(error)) from error
        pending = self._pending[request_id] = _Pending(take)
        self.wake()
        try:
            await pending.done.wait()
        finally:
            self._pending.pop(request_id, None)
        if pending.error is not None:
            raise pending.error
        return pending.result

    def after_events(self, then: Callable[[], None]) -> None:
        """Calls `then` when all that the daemon has said so far was heard, or never will be."""
        if self.connected:
            self._pending[self.session.request("barrier", {})] = _Pending(settled=then)
            self.wake()
        else:
            then()

    def abandon(self, reason: str) -> None:
        """Ends the connection for good: there is nothing left to be connected to."""
        self._abandoned = True
        self._failure = ConnectionLost(reason)
        self._loops.cancel()

    async def close(self) -> None:
        """Writes what is due, says goodbye, and returns when the connection is over."""
        if self.connected:
            with trio.move_on_after(_FLUSH_SECONDS):
                self._idle = trio.Event()
                self.wake()
                await self._idle.wait()
        self._closing.set()
        if not self.connected:
            self._attempt.cancel()
        await self._ended.wait()

    @asynccontextmanager
    async def outliving(self) -> AsyncIterator[None]:
        """The connection lasts as long as the block, also while that is cancelled, and has ended when it is left.

        Else both would end with the cancellation: an error of the block would come out in a group, beside a `Cancelled`.
        """
        self._life.shield = True
        try:
            yield
        finally:
            self._life.cancel()
            with trio.CancelScope(shield=True):  # takes no longer than the cancellation of a socket
                await self._ended.wait()

    # The task.

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Stays connected until `close`, or until it is given up; started when connected for the first time.

        Raises:
            ConnectionLost: nobody is there; only before it was ever connected, as the others.
            RequestFailed: the daemon refuses the connection.
            ProtocolError: it is no daemon.
        """
        lost: NotebookError = ConnectionLost("the notebook is closed")
        try:
            with self._life:
                await self._serve(task_status)
                lost = await self._reconnect()
        except NotebookError as error:
            lost = error
            raise
        finally:
            self._give_up(lost)

    async def _reconnect(self) -> NotebookError:
        """Connects again whenever the connection breaks; returns why it does not any more."""
        attempts, deadline = 0, trio.current_time() + self._reconnect_seconds
        while not self.closed:
            lost = self._failure or ConnectionLost("the connection to the daemon broke")
            if self._abandoned or isinstance(lost, ProtocolError) or trio.current_time() >= deadline:
                return lost
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempts) * random.uniform(0.5, 1.5)
            with trio.move_on_at(min(trio.current_time() + pause, deadline)):
                await self._closing.wait()
                break
            attempts += 1
            try:
                # A network that swallows what it is given can hold an attempt for minutes.
                with trio.CancelScope(deadline=deadline) as self._attempt:
                    await self._serve()
                if self._attempt.cancelled_caught:
                    self._failure = ConnectionLost(f"no answer from {self._address.sync_url}")
                    continue
            except RequestFailed as error:
                if not _is_passing(error.code):
                    return ConnectionLost(f"the daemon does not let us in any more: {error}")
                self._failure = ConnectionLost(f"the daemon lets nobody in at the moment: {error}")
            except NotebookError as error:
                self._failure = error
            else:
                attempts, deadline = 0, trio.current_time() + self._reconnect_seconds
        return ConnectionLost("the notebook is closed")

    def _give_up(self, error: NotebookError) -> None:
        self._given_up = error
        self._ended.set()
        self._on_ended()
        self.changed()

    async def _serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """One connection, from its socket to its end; returns if it was ever connected.

        Raises:
            NotebookError: it never came that far.
        """
        self._joined, self._failure = trio.Event(), None
        url, token = self._address.sync_url, self._address.token
        try:
            async with connect_socket(url, token=token, max_message_bytes=MAX_FRAME_BYTES) as socket:
                self.session.begin(SessionId(secrets.token_hex(8)))
                async with trio.open_nursery() as nursery:
                    loops = self._loops = nursery.cancel_scope
                    nursery.start_soon(self._until_failure, self._read_loop, socket, loops)
                    nursery.start_soon(self._until_failure, self._write_loop, socket, loops)
                    nursery.start_soon(keepalive, socket)
                    with trio.move_on_after(_HANDSHAKE_SECONDS) as handshake:
                        await self._joined.wait()
                    if handshake.cancelled_caught:
                        self._failure = ConnectionLost(f"no answer to join within {_HANDSHAKE_SECONDS} s")
                    else:
                        self.connected = True
                        self._attempt.deadline = math.inf
                        task_status.started()
                        self.changed()
                        await self._closing.wait()
                    loops.cancel()
                if self._failure is not None:
                    socket.drop()
        except SocketRefused as refused:
            raise refusal(refused.status, refused.body) from refused
        except (OSError, SocketClosed) as error:
            raise ConnectionLost(f"no connection to {url}: {error}") from error
        finally:
            self.connected = False
            self._idle.set()  # nothing more is written
            self._fail_requests()
            self.changed()
        if not self._joined.is_set() and self._failure is not None:
            raise self._failure

    async def _until_failure(self, loop: _Loop, socket: PeerSocket, loops: trio.CancelScope) -> None:
        try:
            await loop(socket)
        except (frames.ProtocolError, SocketProtocolError) as error:
            self._failure = ProtocolError(f"the daemon breaks the protocol: {error.reason}")
        except SocketClosed as error:
            complaint = f"; it said: {self._last_complaint}" if self._last_complaint else ""
            self._failure = self._failure or ConnectionLost(f"the connection to the daemon broke: {error}{complaint}")
        loops.cancel()

    async def _read_loop(self, socket: PeerSocket) -> None:
        while True:
            batch = await socket.receive()
            received = self.session.receive(batch)
            if received.joined:
                self._joined.set()
            self._deliver(received)
            self._woken.set()

    async def _write_loop(self, socket: PeerSocket) -> None:
        while True:
            batch = self.session.next_batch()
            if batch:
                await socket.send(batch)
            else:
                self._idle.set()
                await self._woken.wait()
                self._woken = trio.Event()
                turns = _TURNS_BEFORE_ACKNOWLEDGING
                while turns and not self._urgent:
                    turns -= 1
                    await trio.lowlevel.checkpoint()
                self._urgent = False

    def _deliver(self, received: Received) -> None:
        for complaint in received.complaints:
            self._last_complaint = complaint
            log.warning("the daemon says: %s", complaint)
        for message in received.messages:
            if isinstance(message, Event):
                self._on_event(message)
            else:
                pending = self._pending.pop(message.request_id, None)
                if pending is not None:
                    pending.answer(message)
        self._on_received(received)
        self.changed()

    def _fail_requests(self) -> None:
        pending, self._pending = self._pending, {}
        for one in pending.values():
            lost = self._failure or ConnectionLost("the connection to the daemon broke before it answered")
            one.fail(type(lost)(*lost.args))


def request_failed(error: Mapping[str, Any]) -> RequestFailed:
    """The error of a response as an exception."""
    data = error.get("data")
    data = data if isinstance(data, dict) else {}
    code, reason = error.get("code"), data.get("reason")
    return RequestFailed(
        code if isinstance(code, int) else int(ErrorCode.INTERNAL),
        reason if isinstance(reason, str) else "unknown",
        {key: value for key, value in data.items() if key != "reason"},
        str(error.get("message", "")),
    )


def _is_passing(status: int) -> bool:
    """Whether an upgrade that was refused like this may be granted a little later: too many are there, or it is starting."""
    return status == 429 or status >= 500
