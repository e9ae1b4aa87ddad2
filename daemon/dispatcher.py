"""Takes peers' requests to the rooms they are for, and the answers back; two lanes for each connection.

What queues or changes something is taken in order: one request that waits for its heads holds back those behind it. What a
person needs at once (interrupt, restart, completion, ...) never waits behind them.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
import trio
from structlog.contextvars import bind_contextvars, unbind_contextvars

from daemon.requests import METHODS, Call, Later, Method, Result, decode_params
from daemon.room import Room
from sync.awaited_heads import WriterEnded
from sync.connection import Connection
from sync.core.identifiers import DocumentId
from sync.core.jsonrpc import Request, RequestError, RequestInvalid, parse_request
from sync.core.limits import MAX_REQUESTS_IN_FLIGHT
from sync.core.mutations import UNSET

log = structlog.get_logger(__name__)

# Ids of a connection's newest answered requests: a repeat is not executed again. A stock client repeats nothing by itself,
# so this need only cover what a network of repos may still have under way.
MAX_ANSWERED = 10_000
# Who has as many requests in flight as may be can still stop what they wait for.
RESERVED_FOR_STOPS = 8
STOPS: Final = ("interrupt", "restart_kernel", "shutdown_kernel")
_ID: Final = re.compile(r"[0-9a-f-]{36}")


@dataclass(frozen=True, slots=True, eq=False)
class _Taken:
    """A request on its way; `place` is what it holds in `Connection.in_flight`: its id, or for a notification anything."""

    connection: Connection
    document_id: DocumentId
    request: Request
    place: object


class Dispatcher:
    """One for the daemon; `rooms` is the hub's, by notebook document."""

    def __init__(self, rooms: Mapping[DocumentId, Room]) -> None:
        self._rooms = rooms
        self._lanes: dict[Connection, trio.MemorySendChannel[_Taken]] = {}
        self.requests = 0

    async def receive(self, connection: Connection, document_id: DocumentId, data: dict[str, Any]) -> None:
        """Takes one JSON-RPC object of the connection's own peer; never waits for what it asks for."""
        try:
            request = parse_request(data)
        except RequestInvalid as invalid:
            if invalid.id is not UNSET:
                connection.send_error(document_id, invalid.id, invalid)
            return
        self.requests += 1
        taken = _Taken(connection, document_id, request, object() if request.id is UNSET else request.id)
        if taken.place in connection.in_flight or request.id in connection.answered:
            return
        room_for = MAX_REQUESTS_IN_FLIGHT + (RESERVED_FOR_STOPS if request.method in STOPS else 0)
        if len(connection.in_flight) >= room_for:
            if request.id is UNSET:
                connection.tell("notifications are sent faster than they can be taken; some were dropped")
            self._refuse(
                taken, RequestError.too_many_requests(f"{MAX_REQUESTS_IN_FLIGHT} requests are in flight already")
            )
            return
        connection.in_flight.add(taken.place)
        if request.id is not UNSET:
            connection.answered[request.id] = None
            if len(connection.answered) > MAX_ANSWERED:
                del connection.answered[next(iter(connection.answered))]
        method = METHODS.get(request.method)
        if method is not None and method.ordered:
            self._lane(connection).send_nowait(taken)
        else:
            connection.nursery.start_soon(self._answer, taken)

    def _lane(self, connection: Connection) -> trio.MemorySendChannel[_Taken]:
        lane = self._lanes.get(connection)
        if lane is None:
            # Room for all that may be in flight: it is never full.
            lane, receive = trio.open_memory_channel[_Taken](MAX_REQUESTS_IN_FLIGHT)
            self._lanes[connection] = lane
            connection.nursery.start_soon(self._serve_lane, connection, receive)
        return lane

    async def _serve_lane(self, connection: Connection, requests: trio.MemoryReceiveChannel[_Taken]) -> None:
        try:
            async for taken in requests:
                await self._answer(taken)
        finally:
            del self._lanes[connection]

    async def _answer(self, taken: _Taken) -> None:
        """Runs one request up to its acceptance; a fault in it is that request's answer and nobody else's."""
        # Until the task's next request: what is logged of its last step, when that is over, should still name it.
        unbind_contextvars("method", "execution_id")
        bind_contextvars(room=taken.document_id, **_said_of(taken.request))

        async def accept() -> None:
            room, method = self._find(taken)
            params = decode_params(method, taken.request.params)
            with room.serving(accepted=False):
                result = await method.handler(Call(room, taken.connection), params)
            if isinstance(result, Later):
                taken.connection.nursery.start_soon(self._finish, taken, room, result)
            else:
                self._respond(taken, room, result)

        await self._guard(taken, accept)

    async def _finish(self, taken: _Taken, room: Room, later: Later) -> None:
        """The part after the acceptance."""

        async def finish() -> None:
            with room.serving():
                result = await later.finish()
            self._respond(taken, room, result)

        await self._guard(taken, finish)

    async def _guard(self, taken: _Taken, part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except RequestError as error:
            self._refuse(taken, error)
        except WriterEnded:
            self._refuse(taken, RequestError.shutting_down())
        except Exception:
            # The policy line: a bug behind one request must not end the peer's connection, or the daemon.
            log.exception("request failed")
            self._refuse(taken, RequestError.internal())

    def _find(self, taken: _Taken) -> tuple[Room, Method]:
        room = self._rooms.get(taken.document_id)
        if room is None or room.closed:
            raise RequestError.not_found("notebook")
        if room.closing:
            raise RequestError.shutting_down()
        method = METHODS.get(taken.request.method)
        if method is None:
            raise RequestError.method_not_found(taken.request.method)
        if taken.connection.role == "viewer" and not method.viewers:
            raise RequestError.forbidden(f"a viewer may not call {taken.request.method}")
        return room, method

    def _respond(self, taken: _Taken, room: Room, result: Result) -> None:
        if room.writer.ended:  # nobody would hand the answer on
            raise RequestError.shutting_down()
        taken.connection.in_flight.discard(taken.place)
        if taken.request.id is not UNSET:
            room.runtime.respond(taken.connection, taken.request.id, result.value, cells=result.cells)

    def _refuse(self, taken: _Taken, error: RequestError) -> None:
        taken.connection.in_flight.discard(taken.place)
        if taken.request.id is not UNSET:
            taken.connection.send_error(taken.document_id, taken.request.id, error)


def _said_of(request: Request) -> dict[str, str]:
    """What the log says of a request: only what is known to be a method, or an id; a peer can write anything there."""
    said = {"method": request.method} if request.method in METHODS else {}
    execution_id = request.params.get("execution_id")
    if isinstance(execution_id, str) and _ID.fullmatch(execution_id):
        said["execution_id"] = execution_id
    return said
