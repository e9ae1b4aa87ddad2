"""The peers of a soak. A seat is taken by one peer after the other: it comes, does this and that, and goes, often amid it."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol
from uuid import uuid4

import trio

from sync.client import Notebook as ClientNotebook
from sync.client import RequestFailed as ClientRequestFailed
from sync.client import open_notebook
from tests.e2e.notebooks import Notebook
from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.stock_peer import StockPeer, update_text
from tests.fakes.thin_peer import RequestFailed, ThinPeer, open_thin_peer
from tests.soak.books import SOURCES, Book

# What a peer may be told when others edit, restart and close beside it; anything else ends the soak.
EXPECTED = frozenset(
    {"not_found", "not_a_code_cell", "busy", "no_kernel", "shutting_down", "kernel_failed", "conflict", "timeout"}
)
# How long a peer stays, seconds; the half of these visits end in the middle of something.
STAY = (20, 120)


class Refused(Exception):
    """The daemon answered with an error."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Hands(Protocol):
    """What any kind of peer can do."""

    def cells(self) -> Awaitable[Sequence[str]]: ...
    def edit(self, cell_id: str, source: str) -> Awaitable[None]: ...
    def add(self, source: str) -> Awaitable[None]: ...
    def delete(self, cell_id: str) -> Awaitable[None]: ...
    def execute(self, cell_id: str) -> Awaitable[str]: ...
    def ask(self, method: str, **params: Any) -> Awaitable[None]: ...
    def sliders(self) -> Awaitable[Sequence[str]]: ...


@dataclass
class ThinHands:
    """A thin peer's."""

    peer: ThinPeer

    async def cells(self) -> Sequence[str]:
        return sorted(self.peer.read("cells") or ())

    async def edit(self, cell_id: str, source: str) -> None:
        self.peer.edit(cell_id, source)

    async def add(self, source: str) -> None:
        self.peer.add_cell(source)

    async def delete(self, cell_id: str) -> None:
        self.peer.delete_cell(cell_id)

    async def execute(self, cell_id: str) -> str:
        return await self.peer.run(cell_id)

    async def ask(self, method: str, **params: Any) -> None:
        await self.peer.request(method, **params)

    async def sliders(self) -> Sequence[str]:
        return _sliders(self.peer.read("comms") or {})


@dataclass
class ClientHands:
    """Our Python client's."""

    notebook: ClientNotebook

    async def cells(self) -> Sequence[str]:
        return [cell.id for cell in self.notebook.cells if cell.cell_type == "code"]

    async def edit(self, cell_id: str, source: str) -> None:
        self.notebook.cell(cell_id).edit(source)

    async def add(self, source: str) -> None:
        self.notebook.add_cell(source)

    async def delete(self, cell_id: str) -> None:
        self.notebook.cell(cell_id).delete()

    async def execute(self, cell_id: str) -> str:
        execution = await self.notebook.cell(cell_id).execute()
        return (await execution.result()).status

    async def ask(self, method: str, **params: Any) -> None:
        match method:
            case "complete":
                await self.notebook.complete(params["code"], params["cursor_pos"])
            case "interrupt":
                await self.notebook.interrupt()
            case "restart_kernel":
                await self.notebook.restart()
            case "save_notebook":
                await self.notebook.save()
            case "clear_outputs":
                await self.notebook.clear_outputs()
            case _:
                raise AssertionError(method)

    async def sliders(self) -> Sequence[str]:
        return []


@dataclass
class StockHands:
    """A stock client's, in Node."""

    peer: StockPeer
    notebook: Notebook

    async def cells(self) -> Sequence[str]:
        return sorted(await self.peer.doc(self.notebook.url, ["cells"]))

    async def edit(self, cell_id: str, source: str) -> None:
        await self.peer.change(self.notebook.url, update_text(["cells", cell_id, "source"], source))

    async def add(self, source: str) -> None:
        await self.peer.drop()  # what this kind does instead: its connection breaks, and is made again

    async def delete(self, cell_id: str) -> None:
        await self.peer.drop()

    async def execute(self, cell_id: str) -> str:
        execution_id = str(uuid4())
        await self.ask("execute_cell", cell_id=cell_id, execution_id=execution_id)
        event = await self.peer.wait_event(self.notebook.url, "execution_done", execution_id=execution_id)
        status: str = event["params"]["status"]
        return status

    async def ask(self, method: str, **params: Any) -> None:
        response = await self.peer.request(self.notebook.url, method, params)
        if "error" in response:
            raise Refused(response["error"]["data"]["reason"])

    async def sliders(self) -> Sequence[str]:
        runtime = (await self.peer.followed(self.notebook.url))[-1]
        return _sliders(await self.peer.doc(runtime, ["comms"]))


def _sliders(comms: dict[str, Any]) -> list[str]:
    return [comm_id for comm_id, comm in comms.items() if comm.get("model_name") == "IntSliderModel"]


@asynccontextmanager
async def thin(daemon: DaemonProcess, notebook: Notebook) -> AsyncIterator[Hands]:
    """A thin peer."""

    @dataclass(frozen=True)
    class Urls:
        notebook: str
        runtime: str

    async with open_thin_peer(daemon, Urls(notebook.url, notebook.runtime)) as peer:
        yield ThinHands(peer)


@asynccontextmanager
async def client(daemon: DaemonProcess, notebook: Notebook) -> AsyncIterator[Hands]:
    """Our Python client."""
    async with open_notebook(daemon.url, token=daemon.token, notebook=notebook.url) as opened:
        yield ClientHands(opened)


@asynccontextmanager
async def stock(daemon: DaemonProcess, notebook: Notebook) -> AsyncIterator[Hands]:
    """A stock client. Its process is killed amid its visit, so what it was about is no fault of it."""
    async with notebook.joined(retry_ms=200, tolerate_faults=True) as peer:
        yield StockHands(peer, notebook)


Kind = Callable[[DaemonProcess, Notebook], Any]


@dataclass
class Seat:
    """One of the peers. `pause`: seconds between two things that it does, on average."""

    number: int
    kind: Kind
    books: Sequence[Book]
    rng: Random
    pause: float
    counts: Counter[str]

    async def run(self, daemon: DaemonProcess) -> None:
        """Visits one notebook after the other until cancelled."""
        while True:
            book = self.rng.choice(self.books)
            await book.opened.wait()
            notebook = book.notebook
            assert notebook is not None
            stay = self.rng.uniform(*STAY)
            with book.visit(), trio.move_on_after(stay):
                try:
                    await self._visit(daemon, notebook)
                except (RequestFailed, ClientRequestFailed) as refused:
                    # It came when the notebook was just being closed; in a moment it is open again.
                    if book.notebook is notebook or refused.reason not in EXPECTED:
                        raise
                    self.counts["came too late"] += 1
                    await trio.sleep(self.rng.expovariate(1 / self.pause))

    async def _visit(self, daemon: DaemonProcess, notebook: Notebook) -> None:
        async with self.kind(daemon, notebook) as hands:
            self.counts[f"visits by {self.kind.__name__} peers"] += 1
            while True:
                await trio.sleep(self.rng.expovariate(1 / self.pause))
                await self._do(hands)

    async def _do(self, hands: Hands) -> None:
        rng = self.rng
        cells = await hands.cells()
        if not cells:
            return
        cell_id = rng.choice(cells)
        what = rng.choices(*zip(*_WEIGHTS.items(), strict=True))[0]
        self.counts[what] += 1
        try:
            match what:
                case "executions":
                    self.counts[f"executions seen {await hands.execute(cell_id)}"] += 1
                case "edits":
                    await hands.edit(cell_id, f"{rng.choice(SOURCES)}\n# {rng.random()}")
                case "cells added or deleted":
                    await (hands.add(rng.choice(SOURCES)) if len(cells) < 8 else hands.delete(cell_id))
                case "slider moves":
                    for comm_id in (await hands.sliders())[:1]:
                        await hands.ask("update_comm", comm_id=comm_id, state={"value": rng.randrange(1000)})
                case "completions":
                    await hands.ask("complete", code="pri", cursor_pos=3)
                case "interrupts":
                    await hands.ask("interrupt")
                case "restarts":
                    await hands.ask("restart_kernel")
                case "saves":
                    await hands.ask("save_notebook")
                case "clears":
                    await hands.ask("clear_outputs")
        except (RequestFailed, ClientRequestFailed, Refused) as refused:
            if refused.reason not in EXPECTED:
                raise
            self.counts[f"refused: {refused.reason}"] += 1
        except KeyError:  # our client's cell, deleted by another peer since it was chosen
            self.counts["cells gone"] += 1


_WEIGHTS = {
    "executions": 40,
    "edits": 25,
    "slider moves": 10,
    "completions": 8,
    "cells added or deleted": 6,
    "saves": 4,
    "clears": 3,
    "interrupts": 2,
    "restarts": 1,
}
