"""A client's side of one connection: frames in, events and answers out, in an order that a program can rely on.

Pure. It holds the notebook document, follows its `runtime` to the runtime document (and from an old one to its
successor), and gives an event or an answer on only when the replicas hold the state that it speaks of (docs/wire.md,
"Events"). The daemon sees to that order as well; here it costs a comparison, and it holds whatever is between.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cbor2 import CBOREncodeError

from sync.core.binding import ROOT
from sync.core.frames import (
    DocUnavailable,
    Ephemeral,
    EphemeralFramePrefix,
    ErrorFrame,
    Frame,
    Join,
    Peer,
    ProtocolError,
    Sync,
    decode_data,
    decode_frame,
    encode_data,
    encode_frame,
)
from sync.core.identifiers import (
    DocumentId,
    Heads,
    InvalidIdentifier,
    PeerId,
    SessionId,
    heads_from_hex,
    parse_automerge_url,
)
from sync.core.limits import MAX_HELD_EVENTS, MAX_JSONRPC_BYTES, MAX_REQUESTS_IN_FLIGHT
from sync.core.plain import read_string
from sync.core.replica_session import ReplicaSession
from sync.core.sync_message import SyncMessage, SyncMessageInvalid, decode_sync_message

# What may wait for its state here: all that the daemon may hold for one peer, and an answer to each open request.
MAX_HELD = MAX_HELD_EVENTS + MAX_REQUESTS_IN_FLIGHT
# Runtime documents that were followed and left: messages about them may still be under way.
_REMEMBERED_RUNTIMES = 16
# Runtime documents followed at a time: as many as could be replaced while one join is under way.
_MAX_CANDIDATES = 8
_MAX_URL_CHARS = 100


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened at the daemon.

    Attributes:
        method: as docs/wire.md lists them, for instance `execution_done`.
        params: with `epoch`, `seq`, `runtime`, `heads` and what the method has of its own.
        nbytes: how long it was on the wire.
    """

    method: str
    params: dict[str, Any]
    nbytes: int = 0

    @property
    def seq(self) -> int:
        """1, 2, ... for each `epoch`; a gap means that events were dropped, and the documents say what happened."""
        seq = self.params.get("seq")
        return seq if isinstance(seq, int) else 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The response to a request: a result, or the error's {code, message, data}."""

    request_id: int
    result: dict[str, Any] | None
    error: dict[str, Any] | None


Message: TypeAlias = Event | Answer


@dataclass(slots=True)
class Received:
    """What one read brought.

    Attributes:
        joined: the daemon has taken us in.
        notebook_moved: the notebook document's replica changed.
        runtime_moved: the current runtime document's replica changed, or another document took its place.
        messages: events and answers in the daemon's order, each with its state in the replicas.
        complaints: texts of `error` frames.
        refusal: the error that answered the session's own question, whether the runtime document is complete. The next
            event about that document tells as well.
    """

    joined: bool = False
    notebook_moved: bool = False
    runtime_moved: bool = False
    messages: list[Message] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    refusal: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    message: Message
    runtime: DocumentId | None
    heads: Heads
    notebook_heads: Heads


class RequestTooLarge(Exception):
    """A request's parameters exceed what one message may hold."""


class RequestInvalid(Exception):
    """A request's parameters are none that a daemon takes: it would hang up."""


class ClientSession:
    """One notebook at a client; it outlives connections.

    Attributes:
        notebook: the notebook document.
        runtime: the runtime document that is read. None until the first one is complete.
    """

    def __init__(self, peer_id: PeerId, notebook_id: DocumentId) -> None:
        self.peer_id = peer_id
        self.daemon_id: PeerId | None = None
        self.notebook = ReplicaSession(notebook_id)
        self.runtime: ReplicaSession | None = None
        # The document that the notebook names and that is not complete yet.
        self._coming: ReplicaSession | None = None
        # It, and others that were named or expected on the way to it: older states of the notebook name older ones. The
        # daemon must hear of what it has sent of them, should the notebook come back to one.
        self._candidates: dict[DocumentId, ReplicaSession] = {}
        self._left: deque[DocumentId] = deque(maxlen=_REMEMBERED_RUNTIMES)
        self._held: deque[_Held] = deque()
        self._last_request = 0
        self._own_requests: set[int] = set()
        self._requests: deque[bytes] = deque()
        self._join_due = False
        self._count = 0
        self._last_heard: tuple[str, int] = ("", 0)
        self._session_id = SessionId("")

    # A connection.

    def begin(self, session_id: SessionId) -> None:
        """A new connection; what was asked and not answered on the last one never will be."""
        self.daemon_id = None
        self._session_id = session_id
        self._join_due = True
        self._count = 0
        self._requests.clear()
        self._own_requests.clear()
        self._held.clear()
        self._candidates.clear()
        if self._coming is not None:
            self._candidates[self._coming.document_id] = self._coming
            self._ask_for_completeness()
        for session in self._sessions():
            session.begin()

    def expect(self, runtime_id: DocumentId) -> None:
        """Names the runtime document before the notebook document does, so that both are asked for at once."""
        if self.runtime is None or self.runtime.document_id != runtime_id:
            self._await(runtime_id)

    def has_left(self, runtime_id: str) -> bool:
        """Whether this runtime document was replaced by the one that is read, or by one before it."""
        return runtime_id in self._left

    def request(self, method: str, params: Mapping[str, Any]) -> int:
        """Queues a request behind the edits made before it; its id comes back in an `Answer`.

        Raises:
            RequestTooLarge: more than MAX_JSONRPC_BYTES.
            RequestInvalid: keys that are no text, values of other types than JSON's and bytes, or too deep.
        """
        self._last_request += 1
        request = {"jsonrpc": "2.0", "id": self._last_request, "method": method, "params": dict(params)}
        try:
            data = encode_data(request)
        except CBOREncodeError as error:
            raise RequestInvalid(str(error)) from error
        if len(data) > MAX_JSONRPC_BYTES:
            raise RequestTooLarge(f"a request of {len(data)} bytes, {MAX_JSONRPC_BYTES} are allowed")
        try:
            decode_data(data)  # as the daemon does, who hangs up where it can't
        except ProtocolError as error:
            raise RequestInvalid(error.reason) from error
        self._requests.append(data)
        return self._last_request

    def next_batch(self) -> list[bytes]:
        """The frames of the next write: what the documents have to say, then the requests; empty if nothing is due."""
        if self._join_due:
            self._join_due = False
            return [encode_frame(Join(self.peer_id, ("1",), {"isEphemeral": True}))]
        if self.daemon_id is None:
            return []
        frames = []
        for session in self._sessions():
            while True:
                is_request = not session.replica.heads()
                data = session.next_message()
                if data is None:
                    break
                frames.append(encode_frame(Sync(self.peer_id, self.daemon_id, session.document_id, data, is_request)))
        if self._requests:
            notebook_id = self.notebook.document_id
            prefix = EphemeralFramePrefix(self.peer_id, self.daemon_id, notebook_id, self._session_id)
            while self._requests:
                self._count += 1
                frames.append(prefix.frame(self._count, self._requests.popleft()))
        return frames

    # What comes in.

    def receive(self, batch: Sequence[bytes]) -> Received:
        """Takes the frames of one read: first all changes, then the events and answers that they were awaited by.

        Raises:
            ProtocolError: the daemon breaks the protocol, or sends changes that can't be applied.
        """
        received = Received()
        changes: dict[DocumentId, list[SyncMessage]] = {}
        for data in batch:
            self._sort(decode_frame(data), received, changes)
        for session in self._sessions():
            if session.document_id in changes:
                self._apply(session, changes[session.document_id], received)
        if received.notebook_moved:
            self._follow_runtime()
        self._release(received)
        return received

    def _sort(self, frame: Frame, received: Received, changes: dict[DocumentId, list[SyncMessage]]) -> None:
        match frame:
            case Peer(sender, target, version, _):
                if self.daemon_id is not None or target != self.peer_id or version != "1":
                    raise ProtocolError("the answer to join is not for us, or names another version")
                self.daemon_id = PeerId(sender)
                received.joined = True
            case ErrorFrame(message=message):
                received.complaints.append(message)
            case Sync() | Ephemeral() | DocUnavailable() if self.daemon_id is None:
                raise ProtocolError("a frame before the answer to join")
            case Sync(sender, _, document_id, data, _) if sender == self.daemon_id:
                try:
                    changes.setdefault(DocumentId(document_id), []).append(decode_sync_message(data))
                except SyncMessageInvalid as error:
                    raise ProtocolError(str(error)) from error
            case Ephemeral(sender, _, document_id) if (sender, document_id) == self._daemon_on_notebook():
                self._hear(frame, received)
            case DocUnavailable(sender, _, document_id) if sender == self.daemon_id:
                self._note_unavailable(document_id, received)
            case _:
                pass  # other peers' presence, gossip of stock repos, documents that we left

    def _daemon_on_notebook(self) -> tuple[str | None, str]:
        return self.daemon_id, self.notebook.document_id

    def _hear(self, frame: Ephemeral, received: Received) -> None:
        session_id, count = self._last_heard
        if frame.session_id == session_id and frame.count <= count:
            return
        self._last_heard = frame.session_id, frame.count
        data = decode_data(frame.data)
        if not isinstance(data, dict) or data.get("jsonrpc") != "2.0":
            return
        message = self._parse(data, len(frame.data))
        if message is None:
            return
        if isinstance(message, Answer) and message.error is not None:
            # Errors speak of no state.
            self._give(message, received)
            return
        said = message.params if isinstance(message, Event) else message.result or {}
        runtime, heads, notebook_heads = said.get("runtime"), said.get("heads", []), said.get("notebook_heads", [])
        if runtime is not None and not isinstance(runtime, str):
            raise ProtocolError("runtime is not a document id")
        try:
            held = _Held(
                message,
                None if runtime is None else DocumentId(runtime),
                heads_from_hex(heads),
                heads_from_hex(notebook_heads),
            )
        except InvalidIdentifier as error:
            raise ProtocolError(f"heads are malformed: {error}") from error
        if held.runtime is not None and not held.heads:
            raise ProtocolError("a runtime document without heads")
        if len(self._held) >= MAX_HELD:
            raise ProtocolError("too many events without their state")
        self._held.append(held)

    def _parse(self, data: dict[Any, Any], nbytes: int) -> Message | None:
        method, request_id = data.get("method"), data.get("id")
        if isinstance(method, str) and request_id is None:
            params = data.get("params")
            return Event(method, params if isinstance(params, dict) else {}, nbytes)
        if data.get("to") != self.peer_id or type(request_id) is not int:
            return None
        result, error = data.get("result"), data.get("error")
        if isinstance(result, dict):
            return Answer(request_id, result, None)
        return Answer(request_id, None, error if isinstance(error, dict) else {})

    def _note_unavailable(self, document_id: str, received: Received) -> None:
        for session in self._sessions():
            if session.document_id == document_id:
                session.unavailable = True
                received.notebook_moved |= session is self.notebook
                received.runtime_moved |= session is self.runtime

    def _apply(self, session: ReplicaSession, messages: list[SyncMessage], received: Received) -> None:
        try:
            moved = session.receive(messages)
        except Exception as error:
            # The policy line: the core has many kinds of errors, and each means that these changes are no good.
            raise ProtocolError(f"changes that can't be applied: {error}") from error
        received.notebook_moved |= moved and session is self.notebook
        received.runtime_moved |= moved and session is self.runtime

    def _follow_runtime(self) -> None:
        url = read_string(self.notebook.replica, ROOT, "runtime", longest=_MAX_URL_CHARS)
        try:
            named = parse_automerge_url(url or "")
        except InvalidIdentifier:
            return
        if self.runtime is not None and self.runtime.document_id == named:
            self._coming = None
        elif self._coming is None or self._coming.document_id != named:
            self._await(named)

    def _await(self, runtime_id: DocumentId) -> None:
        if runtime_id in self._left:
            self._left.remove(runtime_id)
        if runtime_id not in self._candidates:
            if len(self._candidates) >= _MAX_CANDIDATES:
                self._leave(self._candidates.pop(next(iter(self._candidates))))
            self._candidates[runtime_id] = ReplicaSession(runtime_id)
        self._coming = self._candidates[runtime_id]
        self._ask_for_completeness()

    def _leave(self, session: ReplicaSession) -> None:
        self._left.append(session.document_id)

    def _ask_for_completeness(self) -> None:
        # The answer names heads of the new document, and comes when they were written: then the document is complete.
        self._own_requests.add(self.request("barrier", {}))

    def _release(self, received: Received) -> None:
        while self._held and self._is_covered(self._held[0], received):
            self._give(self._held.popleft().message, received)

    def _is_covered(self, held: _Held, received: Received) -> bool:
        if not self.notebook.holds(held.notebook_heads):
            return False
        if held.runtime is None or held.runtime in self._left:
            return True
        if self.runtime is not None and held.runtime == self.runtime.document_id:
            return self.runtime.holds(held.heads)
        candidate = self._candidates.get(held.runtime)
        if candidate is None or not candidate.holds(held.heads):
            return False
        # What is told must be what is read, also where the notebook names a later document already.
        self._take_over(candidate)
        received.runtime_moved = True
        return True

    def _take_over(self, candidate: ReplicaSession) -> None:
        """This document is complete: it is the one to read."""
        if self.runtime is not None:
            self._leave(self.runtime)
        self.runtime = self._candidates.pop(candidate.document_id)
        if candidate is self._coming:
            self._coming = None
            for session in self._candidates.values():
                self._leave(session)
            self._candidates.clear()

    def _give(self, message: Message, received: Received) -> None:
        if isinstance(message, Answer) and message.request_id in self._own_requests:
            self._own_requests.discard(message.request_id)
            received.refusal = message.error or received.refusal
        else:
            received.messages.append(message)

    def _sessions(self) -> list[ReplicaSession]:
        sessions = [self.notebook, *self._candidates.values()]
        return sessions if self.runtime is None else [*sessions, self.runtime]
