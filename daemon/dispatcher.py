"""Takes peers' requests to the rooms they are for, and the answers back; two lanes for each connection.

What queues or changes something is taken in order: one request that waits for its heads holds back those behind it. What a
person needs at once (interrupt, restart, completion, ...) never waits behind them.
"""

from collections.abc import Mapping
from typing import Any

import structlog
import trio

from daemon.requests import METHODS, Call, Later, Method, Result, decode_params
from daemon.room import Room
from sync.connection import Connection
from sync.core.identifiers import DocumentId
from sync.core.jsonrpc import Request, RequestError, RequestInvalid, parse_request
from sync.core.limits import MAX_REQUESTS_IN_FLIGHT
from sync.core.mutations import UNSET

log = structlog.get_logger(__name__)

# Ids of a connection's newest answered requests: a repeat is not executed again. A stock client repeats nothing by itself,
# so this need only cover what a network of repos may still have under way.
MAX_ANSWERED = 10_000


class Dispatcher:
    """One for the daemon; `rooms` is the hub's, by notebook document."""

    def __init__(self, rooms: Mapping[DocumentId, Room]) -> None:
        self._rooms = rooms
        self._lanes: dict[Connection, trio.MemorySendChannel[tuple[DocumentId, Request]]] = {}
        self.requests = 0

    async def receive(self, connection: Connection, document_id: DocumentId, data: dict[str, Any]) -> None:
        """Takes one JSON-RPC object of the connection's own peer; never waits for what it asks for."""
        if "method" not in data:
            return  # a response or an event that a repo passed on; it is not for us
        try:
            request = parse_request(data)
        except RequestInvalid as invalid:
            if invalid.id is not UNSET:
                connection.send_error(document_id, invalid.id, invalid)
            return
        self.requests += 1
        if request.id is not UNSET:
            if request.id in connection.in_flight or request.id in connection.answered:
                return
            if len(connection.in_flight) >= MAX_REQUESTS_IN_FLIGHT:
                error = RequestError.too_many_requests(f"{MAX_REQUESTS_IN_FLIGHT} requests are in flight already")
                connection.send_error(document_id, request.id, error)
                return
            connection.in_flight.add(request.id)
            connection.answered[request.id] = None
            if len(connection.answered) > MAX_ANSWERED:
                del connection.answered[next(iter(connection.answered))]
        method = METHODS.get(request.method)
        if method is not None and method.ordered:
            try:
                self._lane(connection).send_nowait((document_id, request))
            except trio.WouldBlock:
                # Only notifications can fill it: those with an id are bounded by their place in flight.
                connection.tell("notifications are sent faster than they can be taken; some were dropped")
        else:
            connection.nursery.start_soon(self._answer, connection, document_id, request)

    def _lane(self, connection: Connection) -> trio.MemorySendChannel[tuple[DocumentId, Request]]:
        lane = self._lanes.get(connection)
        if lane is None:
            # Room for all that may be in flight, and as many notifications.
            lane, receive = trio.open_memory_channel[tuple[DocumentId, Request]](MAX_REQUESTS_IN_FLIGHT * 2)
            self._lanes[connection] = lane
            connection.nursery.start_soon(self._serve_lane, connection, receive)
        return lane

    async def _serve_lane(
        self, connection: Connection, requests: trio.MemoryReceiveChannel[tuple[DocumentId, Request]]
    ) -> None:
        try:
            async for document_id, request in requests:
                await self._answer(connection, document_id, request)
        finally:
            del self._lanes[connection]

    async def _answer(self, connection: Connection, document_id: DocumentId, request: Request) -> None:
        """Runs one request up to its acceptance; a fault in it is that request's answer and nobody else's."""
        try:
            room, method = self._find(connection, document_id, request)
            result = await method.handler(Call(room, connection), decode_params(method, request.params))
            if isinstance(result, Later):
                connection.nursery.start_soon(self._finish, connection, room, request, result)
            else:
                self._respond(connection, room, request, result)
        except RequestError as error:
            self._refuse(connection, document_id, request, error)
        except Exception:
            # The policy line: a bug behind one request must not end the peer's connection, or the daemon.
            log.exception("request failed", method=request.method, peer=connection.peer_id)
            self._refuse(connection, document_id, request, RequestError.internal())

    async def _finish(self, connection: Connection, room: Room, request: Request, later: Later) -> None:
        try:
            self._respond(connection, room, request, await later.finish())
        except RequestError as error:
            self._refuse(connection, room.notebook.id, request, error)
        except Exception:
            # The same policy line, for the part after the acceptance.
            log.exception("request failed", method=request.method, peer=connection.peer_id)
            self._refuse(connection, room.notebook.id, request, RequestError.internal())

    def _find(self, connection: Connection, document_id: DocumentId, request: Request) -> tuple[Room, Method]:
        room = self._rooms.get(document_id)
        if room is None or room.closed:
            raise RequestError.not_found("notebook")
        method = METHODS.get(request.method)
        if method is None:
            raise RequestError.method_not_found(request.method)
        if connection.role == "viewer" and not method.viewers:
            raise RequestError.forbidden(f"a viewer may not call {request.method}")
        return room, method

    def _respond(self, connection: Connection, room: Room, request: Request, result: Result) -> None:
        if request.id is not UNSET:
            connection.finish_request(request.id)
            room.runtime.respond(connection, request.id, result.value, cells=result.cells)

    def _refuse(self, connection: Connection, document_id: DocumentId, request: Request, error: RequestError) -> None:
        if request.id is not UNSET:
            connection.send_error(document_id, request.id, error)
