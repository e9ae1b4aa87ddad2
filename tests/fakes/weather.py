"""Twenty peers of one notebook who edit and execute while their connections break, and who write down what they see.

Each peer is an actor with a `History`. Shared cells get texts that occur once each; what the kernel ran it writes down
itself (`ran_log.py` beside the notebook), so the two records are independent.
"""

import json
import random
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import trio

from sync.client import ConnectionLost, Event, Notebook, RequestFailed, open_notebook
from sync.core.binding import ROOT, Reader
from sync.core.identifiers import Heads, heads_from_hex, heads_to_hex
from sync.core.notebook_schema import NotebookSchema
from sync.websocket import SocketClosed, SocketProtocolError, SocketRefused
from tests.fakes import stock_peer
from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.stock_peer import CONNECTION_LOST, StockPeer, StockPeerError, open_stock_peer
from tests.fakes.tcp_proxy import NO_FAULT, Fault, Wire, wire_to
from tests.fakes.thin_peer import ConnectionEnded, ThinPeer, open_thin_peer, read
from tests.history import FINAL, Asked, History, Ran, Replica, Told

RUN = "import ran_log; ran_log.ran()"
RAN_LOG = """\
import json, os
from IPython import get_ipython

def ran():
    parent = get_ipython().get_parent()
    file = os.open("ran.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, json.dumps([parent["header"]["msg_id"], parent["content"]["code"]]).encode() + b"\\n")
    os.close(file)
"""
FRAMES = 50  # boundaries at which a connection is cut, in each direction
Plan: TypeAlias = Callable[[], Fault]
# The stock adapter begins anew after this, and leaves an attempt that is slower open and unused.
_RETRY_MS = 1000
# For one thing to happen behind delays, stalls and cuts, on a machine that twenty peers keep busy.
_PATIENCE = 120.0
# For so many commits after its end an execution is looked at: what comes late comes within a few.
_WATCHED_COMMITS = 20
# What the peer says when an answer never came.
_NO_ANSWER = "no response"
_NOT_READY = "Websocket not ready"
_ANSWER_SECONDS = 0.5  # then it is asked again, which is the same execution


@dataclass
class Skies:
    """What happens to connections: each kind of peer takes the next fault of its list."""

    rng: random.Random
    frame_cuts: deque[Fault] = field(default_factory=deque)

    @classmethod
    def of_frames(cls, rng: random.Random) -> "Skies":
        """A cut at each of the first boundaries, in both directions, in any order."""
        faults = [
            Fault(direction, cut_after_frames=number, reset=rng.random() < 0.5)
            for number in range(FRAMES)
            for direction in ("to_server", "to_client")
        ]
        rng.shuffle(faults)
        return cls(rng, deque(faults))

    def next_cut(self) -> Fault:
        """The next cut at a boundary; when all are taken, cuts at any byte."""
        if self.frame_cuts:
            return self.frame_cuts.popleft()
        return self.any_byte()

    def again(self, fault: Fault) -> None:
        """A connection ended before its cut: another one must meet it."""
        if fault.cut_after_frames is not None:
            self.frame_cuts.append(fault)

    def any_byte(self) -> Fault:
        """A cut at any byte, the HTTP head's included."""
        direction = self.rng.choice(("to_server", "to_client"))
        size = int(2 ** self.rng.uniform(4, 18))
        return Fault(direction, cut_after_bytes=size, reset=self.rng.random() < 0.5)  # type: ignore[arg-type] # of two words

    def sluggish(self) -> Fault:
        """Late pieces, and now and then a direction that stands still for a while, or a cut."""
        if self.rng.random() < 0.3:
            return self.any_byte()
        direction = self.rng.choice(("to_server", "to_client"))
        size = int(2 ** self.rng.uniform(8, 16))
        return Fault(direction, delay=0.02, stall_after_bytes=size, stall_seconds=self.rng.uniform(0.2, 1.5))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Through:
    """The daemon as it is reached through a wire."""

    url: str
    token: str

    @property
    def sync_url(self) -> str:
        return f"ws://{urlsplit(self.url).netloc}/sync"


@dataclass(frozen=True)
class Documents:
    """The notebook's, as Automerge URLs."""

    notebook: str
    runtime: str


class Crowd:
    """All peers of one run.

    Attributes:
        histories: one for each actor, and the witness's first.
        actors: each one's history and wire.
        going_on: whether the actors go on editing.
    """

    def __init__(self, daemon: DaemonProcess, opened: Mapping[str, str], cells: list[str], rng: random.Random) -> None:
        self.daemon = daemon
        self.documents = Documents(opened["notebook"], opened["runtime"])
        self.cells = cells
        self.rng = rng
        self.histories: list[History] = []
        self.actors: list[tuple[History, Wire]] = []
        self.commits: list[dict[str, str]] = []
        self.going_on = True
        self.texts = 0
        self.quiet = trio.Event()
        self._actors = 0
        self._arrived = 0
        self._all_arrived = trio.Event()
        self._joined = 0
        self._all_joined = trio.Event()

    async def run(self, actors: Sequence["Cast"], over: Callable[[], bool], seconds: float) -> None:
        """Lets them go on until it is over, or for so many seconds; then all is quiet, and each looks at its replica."""
        self._actors = len(actors)
        async with open_thin_peer(self.daemon, self.documents) as witness, trio.open_nursery() as nursery:
            for number, (actor, plan, missed) in enumerate(actors):
                nursery.start_soon(self._act, actor, plan, missed, number)
            with trio.move_on_after(seconds):
                while not over():
                    heard = len(witness.events)
                    await witness.wait(lambda heard=heard: len(witness.events) > heard, within=seconds)  # type: ignore[misc]
            self.going_on = False
            await self._all_arrived.wait()
            await witness.wait(lambda: witness.read("queue") == {"executing": None, "queued": []}, _PATIENCE)
            await witness.wait(lambda: witness.read("kernel", "status") == "idle")
            self.quiet.set()
            await witness.settle()
            self.histories.insert(0, History("witness", [told_by(witness)], end=end_of_thin(witness)))

        # When all have left: it takes seconds, in which nobody is answered.
        self.commits = statuses_by_commit(witness)

    async def join(self) -> None:
        """An actor is there; returns when all are, and the weather may turn."""
        self._joined += 1
        if self._joined == self._actors:
            self._all_joined.set()
        await self._all_joined.wait()

    async def arrive(self) -> None:
        """An actor has stopped; returns when all have, and all is quiet."""
        self._arrived += 1
        if self._arrived == self._actors:
            self._all_arrived.set()
        await self.quiet.wait()

    def next_text(self, history: History) -> tuple[str, str]:
        """A cell, and a text that no cell has had yet."""
        self.texts += 1
        return self.rng.choice(self.cells), f"# {history.name}.{self.texts}."

    def ran(self) -> Ran:
        """What the kernel wrote down."""
        lines = (self.daemon.root / "ran.jsonl").read_text().splitlines()
        return Ran([(execution_id, source) for execution_id, source in map(json.loads, lines)])

    async def _act(self, actor: "Actor", plan: Plan, missed: Callable[[Fault], None], number: int) -> None:
        history = History(f"{actor.__name__}{number}")
        self.histories.append(history)
        async with wire_to(self.daemon.url, seed=number) as wire:
            wire.missed = missed
            self.actors.append((history, wire))
            await actor(self, history, wire, plan)


Actor: TypeAlias = Callable[[Crowd, History, Wire, Plan], Awaitable[None]]
# An actor, what its connections meet, and who gets back what one of them did not.
Cast: TypeAlias = tuple[Actor, Plan, Callable[[Fault], None]]


# --- Our Python client, which connects again by itself.


async def client(crowd: Crowd, history: History, wire: Wire, plan: Plan) -> None:
    """Edits shared cells and executes them; what it asks is asked again, or it hears of it."""
    history.reconnects = True
    told: list[Told] = []
    history.connections.append(told)
    options = {"token": crowd.daemon.token, "notebook": crowd.documents.notebook}
    async with open_notebook(wire.url, **options) as nb, trio.open_nursery() as nursery:
        nursery.start_soon(_listen, nb, told)
        await crowd.join()
        wire.plan = plan
        wire.break_all()
        waiting: list[tuple[str, str]] = []
        while crowd.going_on:
            cell_id, text = crowd.next_text(history)
            cell = nb.cell(cell_id)
            cell.edit(f"{cell.source}\n{text}")
            waiting.append((cell_id, text))
            source = cell.source
            try:
                execution = await cell.execute()
            except RequestFailed as refused:
                if refused.reason != "heads_timeout":
                    raise
                continue
            history.asked.append(Asked(execution.id, cell_id, source, "accepted"))
            if crowd.rng.random() < 0.2:
                # What is not repeated is heard of, and nothing else comes of it.
                with suppress(ConnectionLost, RequestFailed):
                    await nb.complete("ran_l", 5)
            result = await execution.result()
            assert result.status in FINAL
            await nb.confirm_sync(timeout=_PATIENCE)
            history.acknowledged += waiting
            waiting = []
        wire.plan = lambda: NO_FAULT
        wire.break_all()
        await nb.confirm_sync(timeout=_PATIENCE)
        history.acknowledged += waiting
        await crowd.arrive()
        await nb.confirm_sync(timeout=_PATIENCE)
        history.end = end_of_client(nb)
        nursery.cancel_scope.cancel()


async def _listen(nb: Notebook, told: list[Told]) -> None:
    async for event in nb.events():
        one = Told(event.method, event.params, early=_is_early(nb, event))
        told.append(one)


def _is_early(nb: Notebook, event: Event) -> bool:
    session = nb._session
    runtime = event.params.get("runtime")
    if isinstance(runtime, str) and session.has_left(runtime):
        return False  # for one that has all that it speaks of
    if session.runtime is None or runtime != session.runtime.document_id:
        return True
    return not (
        session.runtime.holds(heads_from_hex(event.params.get("heads", [])))
        and session.notebook.holds(heads_from_hex(event.params.get("notebook_heads", [])))
    )


def end_of_client(nb: Notebook) -> Replica:
    return Replica(
        tuple(sorted(nb.notebook_heads())),
        tuple(sorted(heads_to_hex(nb.runtime_replica.heads()))),
        {cell.id: cell.source for cell in nb.cells},
        {execution_id: entry["status"] for execution_id, entry in nb.runtime["executions"].items()},
    )


# --- Thin peers, which take each frame as it comes: a new one for each connection.


async def thin(crowd: Crowd, history: History, wire: Wire, plan: Plan) -> None:
    """Joins, edits, executes, until its connection breaks; then joins again as another peer."""
    await crowd.join()
    wire.plan = plan
    daemon = Through(wire.url, crowd.daemon.token)
    while crowd.going_on:
        with suppress(OSError, SocketClosed, SocketProtocolError, SocketRefused, ConnectionEnded):
            async with open_thin_peer(daemon, crowd.documents) as peer:
                try:
                    await _edit_and_execute(crowd, history, peer)
                finally:
                    history.connections.append(told_by(peer))
    wire.plan = lambda: NO_FAULT
    async with open_thin_peer(daemon, crowd.documents) as peer:
        await crowd.arrive()
        await peer.settle()
        history.connections.append(told_by(peer))
        history.end = end_of_thin(peer)


async def _edit_and_execute(crowd: Crowd, history: History, peer: ThinPeer) -> None:
    while crowd.going_on:
        cell_id, text = crowd.next_text(history)
        source = f"{source_of(peer, cell_id)}\n{text}"
        peer.edit(cell_id, source)
        execution_id = str(uuid.uuid4())
        heads = peer.notebook_heads()
        asked = peer.ask("execute_cell", cell_id=cell_id, execution_id=execution_id, notebook_heads=heads)
        history.asked.append(Asked(execution_id, cell_id, source, "lost"))
        await peer.wait(asked.arrived.is_set, _PATIENCE)
        if "error" in asked.response:
            assert asked.response["error"]["data"]["reason"] == "heads_timeout", asked.response
            history.asked[-1] = Asked(execution_id, cell_id, source, "refused")
            continue
        # The source was read at those heads, so the daemon has them.
        history.asked[-1] = Asked(execution_id, cell_id, source, "accepted")
        history.acknowledged.append((cell_id, text))
        await peer.done(execution_id, _PATIENCE)


def told_by(peer: ThinPeer) -> list[Told]:
    return [Told(event.method, event.params, event.early) for event in peer.events]


def statuses_by_commit(peer: ThinPeer) -> list[dict[str, str]]:
    """Executions' statuses after each commit. Those that ended long ago are left out: each costs a look into the past.

    A runtime document that took another's place is looked at from the commit on that says the same as the one before.
    """
    commits: list[dict[str, str]] = []
    ended: dict[str, int] = {}
    number, last = 0, dict[str, str]()
    for session in peer.runtimes:
        replica, complete = session.replica, False
        for change in replica.changes_since(()):
            heads = (bytes(change.hash),)
            found = replica.get(ROOT, "executions", heads)
            ids = [] if found is None else replica.keys(found[1], heads)
            complete = complete or (last.keys() <= set(ids) and last == _statuses(replica, last, heads))
            if not complete:
                continue
            number += 1
            watched = [each for each in ids if number - ended.get(each, number) <= _WATCHED_COMMITS]
            commits.append(_statuses(replica, watched, heads))
            for execution_id, status in commits[-1].items():
                if status in FINAL:
                    ended.setdefault(execution_id, number)
        last = _statuses(replica, ids, replica.heads())
    return commits


def _statuses(replica: Reader, execution_ids: Iterable[str], heads: Heads) -> dict[str, str]:
    return {each: str(read(replica, "executions", each, "status", heads=heads)) for each in execution_ids}


def source_of(peer: ThinPeer, cell_id: str) -> str:
    return NotebookSchema.read_source(peer.notebook.replica, cell_id) or ""


def end_of_thin(peer: ThinPeer) -> Replica:
    cells = NotebookSchema.read_cells(peer.notebook.replica)
    return Replica(
        tuple(sorted(peer.notebook_heads())),
        tuple(sorted(heads_to_hex(peer.runtime.replica.heads()))),
        {cell.cell_id: cell.source for cell in cells},
        {execution_id: entry["status"] for execution_id, entry in (peer.read("executions") or {}).items()},
    )


# --- The stock JavaScript client, which connects again by itself and forgets what it asked.


async def stock(crowd: Crowd, history: History, wire: Wire, plan: Plan) -> None:
    """Edits shared cells, and executes one of its own, whose source nobody else changes; asks again until it is answered."""
    history.reconnects = True
    daemon, url = Through(wire.url, crowd.daemon.token), crowd.documents.notebook
    async with open_stock_peer(daemon.sync_url, daemon.token, retry_ms=_RETRY_MS, tolerate_faults=True) as peer:
        await peer.record(url)
        await peer.find(url)
        await peer.follow(url, ["runtime"])
        own = f"own-{history.name}"
        text = {"$immutable": "code"}, {"$immutable": f"W{history.name[5:]}1"}
        cell = {"cell_type": text[0], "position": text[1], "source": RUN, "metadata": {}}
        await peer.change(url, stock_peer.put(["cells", own], cell))
        await crowd.join()
        wire.plan = plan
        wire.break_all()
        while crowd.going_on:
            cell_id, text_ = crowd.next_text(history)
            await peer.change(url, stock_peer.splice(["cells", cell_id, "source"], 0, 0, f"{text_}\n"))
            source = f"{RUN}  {text_}"
            heads = await peer.change(url, stock_peer.update_text(["cells", own, "source"], source))
            execution_id = str(uuid.uuid4())
            params = {"cell_id": own, "execution_id": execution_id, "notebook_heads": heads}
            history.asked.append(Asked(execution_id, own, source, "lost"))
            response = await _ask(peer, url, "execute_cell", params)
            if "error" in response:
                assert response["error"]["data"]["reason"] == "heads_timeout", response
                history.asked[-1] = Asked(execution_id, own, source, "refused")
                continue
            history.asked[-1] = Asked(execution_id, own, source, "accepted")
            history.acknowledged.append((cell_id, text_))
            await _ended(peer, url, execution_id)
        wire.plan = lambda: NO_FAULT
        wire.break_all()
        await _ask(peer, url, "barrier", {"notebook_heads": await peer.heads(url)})
        await crowd.arrive()
        result = (await _ask(peer, url, "barrier", {"notebook_heads": await peer.heads(url)}))["result"]
        await peer.wait_heads(url, result["notebook_heads"])
        await peer.wait_heads(f"automerge:{result['runtime']}", result["heads"])
        history.connections.append(
            [Told(event["method"], event["params"], bool(event["early"])) for event in await peer.events(url)]
        )
        history.end = await _end_of_stock(peer, Documents(url, f"automerge:{result['runtime']}"))
        # What is sent between the end of a connection and its `close` event throws in the stock adapter; nothing else may.
        faults = [fault["message"] for fault in peer.process.faults if fault.get("code") not in CONNECTION_LOST]
        assert all(_NOT_READY in fault for fault in faults), faults


async def _ended(peer: StockPeer, url: str, execution_id: str) -> None:
    """Waits until the document says that an execution has ended; should another document follow, until that one does."""
    status = f"String(doc.executions['{execution_id}'].status)"
    expression = f"!['queued', 'running'].includes({status}) ? 'ended' : doc.successor"
    runtime = (await peer.followed(url))[-1]
    with trio.fail_after(_PATIENCE):
        while runtime != "ended":
            try:
                runtime = await peer.wait(runtime, expression, within=_PATIENCE)
            except StockPeerError as error:
                # Its connection broke while it asked for the document; it says so after a second, and asks when asked again.
                if "is unavailable" not in str(error):
                    raise


async def _ask(peer: StockPeer, url: str, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    while True:
        try:
            return await peer.request(url, method, params, within=_ANSWER_SECONDS)
        except StockPeerError as error:
            if _NO_ANSWER not in str(error):
                raise


async def _end_of_stock(peer: StockPeer, documents: Documents) -> Replica:
    cells = await peer.doc(documents.notebook, ["cells"])
    executions = await peer.doc(documents.runtime, ["executions"])
    return Replica(
        tuple(sorted(await peer.heads(documents.notebook))),
        tuple(sorted(await peer.heads(documents.runtime))),
        {cell_id: cell["source"] for cell_id, cell in cells.items()},
        {execution_id: entry["status"] for execution_id, entry in executions.items()},
    )
