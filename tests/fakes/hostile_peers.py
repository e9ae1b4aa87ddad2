"""Peers that send the fuzzer's inputs over real sockets to a real daemon, each until its connection is ended.

`python -m tests.fakes.hostile_peers`: an `Attack` as JSON on stdin, what was sent on stdout. A process of its own, so that what
an honest peer sees is not what the attackers cost in its own process.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal
from urllib.parse import urlsplit

import cbor2
import trio

from sync.connection import ANSWERED_DEPTH
from sync.core.binding import ROOT, Replica, ScalarType
from sync.core.changes import ChangeRejected, check_changes
from sync.core.frames import Ephemeral, Join, ProtocolError, Sync, decode_data, decode_frame, encode_data, encode_frame
from sync.core.identifiers import DocumentId, Heads
from sync.core.jsonrpc import is_jsonrpc
from sync.core.limits import MAX_FRAME_BYTES
from sync.core.sync_message import SyncMessageInvalid, decode_sync_message, encode_sync_message
from sync.websocket import SocketClosed, SocketProtocolError, connect_socket
from tests.fuzz.changes import make_chunk
from tests.fuzz.frames import Addresses, make_frame
from tests.fuzz.heads import make_head
from tests.fuzz.requests import make_request
from tests.fuzz.sync_messages import make_sync_message

# What is said on one connection before the next is made; most end earlier.
_FRAMES = 20
_TASKS = 3  # of each kind at once
_SECONDS = 60  # for a connection to be made, to end, or to answer
_MARK = "all of it was read"


@dataclass(frozen=True)
class Attack:
    """Who is attacked, and how much.

    Attributes:
        url: of the daemon; `sync_url` is for WebSockets, the tokens an editor's and a viewer's.
        attacked: ids of the notebook document and the runtime document that editors attack.
        watched: the same of the honest peer's notebook, which viewers attack.
        chunks: the changes of the attacked notebook document, in hex.
        seed: the same inputs for the same seed.
        counts: inputs of each kind.
    """

    url: str
    sync_url: str
    token: str
    viewer_token: str
    attacked: Sequence[str]
    watched: Sequence[str]
    chunks: Sequence[str]
    seed: int
    counts: Mapping[str, int]

    async def run(self) -> list["Inputs"]:
        """Sends all of it, from a process of its own.

        Raises:
            AssertionError: a connection did not end as it should.
        """
        done = await trio.run_process(
            [sys.executable, "-m", "tests.fakes.hostile_peers"],
            stdin=json.dumps(vars(self)).encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-5000:]
        return [Inputs(**{**sent, "outcomes": Counter(sent["outcomes"])}) for sent in json.loads(done.stdout)]


@dataclass
class Inputs:
    """What one kind of peers has left to send; the same inputs for the same seed, whatever order they go out in."""

    kind: str
    seed: int
    count: int
    sent: int = 0
    connections: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def next(self) -> Random | None:
        """Where the chance for the next input comes from; None when all were sent."""
        if self.sent >= self.count:
            return None
        self.sent += 1
        return Random(f"live {self.kind} {self.seed} {self.sent}")

    def __str__(self) -> str:
        outcomes = ", ".join(f"{name} {count}" for name, count in self.outcomes.most_common())
        return f"{self.kind:9} {self.sent:7,} inputs on {self.connections:6,} connections: {outcomes}"


# What comes of an input: the connection goes on, must end, or is left, since nothing more would be looked at.
Then = Literal["more", "ends", "leave"]
Make = Callable[[Random], tuple[bytes, Then]]


async def send_inputs(attack: Attack, token: str, document: DocumentId, inputs: Inputs, make: Make) -> None:
    """Sends all inputs of a kind, on one connection after the other; several tasks may share them.

    Raises:
        AssertionError: a connection was not ended after a breach of the protocol, or not answered where there was none.
    """
    while True:
        frames: list[bytes] = []
        then: Then = "more"
        while then == "more" and len(frames) < _FRAMES and (rng := inputs.next()) is not None:
            frame, then = make(rng)
            frames.append(frame)
        if not frames:
            return
        inputs.connections += 1
        if then != "ends":
            mark = {"jsonrpc": "2.0", "id": _MARK, "method": "no such method"}
            frames.append(encode_frame(Ephemeral("hostile", "daemon", document, "s", 1, encode_data(mark))))
        with trio.move_on_after(_SECONDS) as scope:
            inputs.outcomes[await _connect_and_send(attack, token, frames)] += 1
        said = [frame.hex()[:300] for frame in frames]
        assert not scope.cancelled_caught, f"neither ended nor answered, and {then} was expected: {said}"


async def _connect_and_send(attack: Attack, token: str, frames: Sequence[bytes]) -> str:
    try:
        async with connect_socket(attack.sync_url, token=token, max_message_bytes=MAX_FRAME_BYTES) as socket:
            with suppress(SocketClosed):
                await socket.send([encode_frame(Join("hostile", ("1",), {})), *frames])
            while True:
                if any(map(_is_mark, await socket.receive())):
                    return "answered"
    except (SocketClosed, SocketProtocolError):
        return "ended"


def _is_mark(data: bytes) -> bool:
    frame = decode_frame(data)
    said = decode_data(frame.data) if isinstance(frame, Ephemeral) else None
    return isinstance(said, dict) and said.get("id") == _MARK


def frames_about(documents: Sequence[DocumentId]) -> Make:
    """Frames of all kinds."""

    def make(rng: Random) -> tuple[bytes, Then]:
        frame = make_frame(rng, Addresses(sender="hostile", target="daemon", documents=documents))
        return frame, after(frame)

    return make


def sync_messages_about(document: DocumentId, hashes: Heads) -> Make:
    """Sync messages that know what the daemon has."""

    def make(rng: Random) -> tuple[bytes, Then]:
        frame = encode_frame(Sync("hostile", "daemon", document, make_sync_message(rng, hashes)))
        return frame, after(frame)

    return make


def requests_about(document: DocumentId) -> Make:
    """JSON-RPC objects."""

    def make(rng: Random) -> tuple[bytes, Then]:
        data = cbor2.dumps(make_request(rng))
        frame = encode_frame(Ephemeral("hostile", "daemon", document, "s", rng.randrange(2**40), data))
        return frame, after(frame)

    return make


def changes_of(document: DocumentId, chunks: Sequence[bytes]) -> Make:
    """Changes on top of these, each by an author of its own: edits of the notebook, damaged, their checksums repaired."""
    base = Replica()
    base.apply([b"".join(chunks)])
    saved, heads = base.save(), base.heads()

    def make(rng: Random) -> tuple[bytes, Then]:
        replica = Replica.load(saved)
        with replica.transaction() as tx:
            found = tx.get(ROOT, "cells")
            assert found is not None
            tx.put(found[1], f"cell-{rng.randrange(20)}", ScalarType.Str, "x" * rng.choice((1, 300)))
            tx.put(ROOT, rng.choice(("metadata", "schema", "cells", "extra")), ScalarType.Int, 1)
        [change] = replica.changes_since(heads)
        blob = make_chunk(rng, bytes(change.raw_bytes))
        frame = encode_frame(
            Sync("hostile", "daemon", document, encode_sync_message(heads, have=heads, changes=[blob], read_only=None))
        )
        try:
            check_changes(blob)
        except ChangeRejected:
            return frame, "leave"  # from then on its changes are not looked at any more
        return frame, "more"

    return make


def after(frame: bytes) -> Then:
    """What comes of a frame, as the decoders of the daemon have it."""
    try:
        decoded = decode_frame(frame)
        if isinstance(decoded, Sync):
            decode_sync_message(decoded.data)
        elif isinstance(decoded, Ephemeral) and decoded.sender_id == "hostile":
            try:
                decode_data(decoded.data)
            except ProtocolError:
                deep = decode_data(decoded.data, max_depth=ANSWERED_DEPTH)
                return "more" if is_jsonrpc(deep) else "ends"
    except (ProtocolError, SyncMessageInvalid):
        return "ends"
    return "ends" if isinstance(decoded, Join) else "more"


async def send_heads(attack: Attack, inputs: Inputs) -> None:
    """Sends the first bytes of connections, and reads what comes of it.

    Raises:
        AssertionError: a connection was not ended after the other end had nothing more to say.
    """
    address = urlsplit(attack.url)
    while (rng := inputs.next()) is not None:
        stream = await trio.open_tcp_stream(str(address.hostname), address.port or 80)
        inputs.connections += 1
        answer = b""
        async with stream:
            with trio.move_on_after(_SECONDS) as scope, suppress(trio.BrokenResourceError):
                await stream.send_all(make_head(rng))
                await stream.send_eof()
                async for part in stream:
                    answer += part[:100] if len(answer) < 100 else b""
        assert not scope.cancelled_caught, "the connection was kept"
        inputs.outcomes[answer[9:12].decode("latin-1") or "ended"] += 1


async def attack_all(attack: Attack) -> list[Inputs]:
    """Sends all of it from this process, a few tasks for each kind at once."""
    attacked, watched = ([DocumentId(document) for document in pair] for pair in (attack.attacked, attack.watched))
    chunks = [bytes.fromhex(chunk) for chunk in attack.chunks]
    heads = tuple(change.hash for change in check_changes(chunks[-1]))
    kinds: dict[str, tuple[str, DocumentId, Make]] = {
        "frames": (attack.token, attacked[0], frames_about(attacked)),
        "viewers": (attack.viewer_token, watched[0], frames_about(watched)),
        "sync": (attack.token, attacked[0], sync_messages_about(attacked[0], heads)),
        "changes": (attack.token, attacked[0], changes_of(attacked[0], chunks)),
        "requests": (attack.token, attacked[0], requests_about(attacked[0])),
    }
    sent = {kind: Inputs(kind, attack.seed, count) for kind, count in attack.counts.items()}
    async with trio.open_nursery() as nursery:
        for _ in range(_TASKS):
            for kind, (token, document, make) in kinds.items():
                nursery.start_soon(send_inputs, attack, token, document, sent[kind], make)
            nursery.start_soon(send_heads, attack, sent["heads"])
    return list(sent.values())


if __name__ == "__main__":
    print(json.dumps([vars(sent) for sent in trio.run(attack_all, Attack(**json.load(sys.stdin)))]))
