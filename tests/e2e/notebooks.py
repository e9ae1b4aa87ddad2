"""Notebook files for end-to-end tests, and what a stock peer sees of one."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.stock_peer import StockPeer, open_stock_peer


def write_notebook(path: Path, sources: Mapping[str, str]) -> None:
    """Writes an .ipynb of code cells: source by cell id."""
    cells = [
        {"cell_type": "code", "id": cell_id, "source": source, "metadata": {}, "outputs": [], "execution_count": None}
        for cell_id, source in sources.items()
    ]
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}))


@dataclass
class Notebook:
    """An open notebook: its documents, for any peer."""

    daemon: DaemonProcess
    id: str
    url: str
    runtime: str

    @asynccontextmanager
    async def joined(self, *, viewer_token: str | None = None, **options: Any) -> AsyncIterator[StockPeer]:
        """A stock peer that heard every event from its join on and holds both documents."""
        async with open_stock_peer(self.daemon.sync_url, viewer_token or self.daemon.token, **options) as peer:
            await peer.record(self.url)
            await peer.find(self.url)
            await peer.follow(self.url, ["runtime"])
            yield peer

    async def ask(self, peer: StockPeer, method: str, **params: Any) -> dict[str, Any]:
        """A request that is expected to succeed; its result."""
        response = await peer.request(self.url, method, params)
        assert "result" in response, response
        result: dict[str, Any] = response["result"]
        return result

    async def settle(self, *peers: StockPeer) -> dict[str, Any]:
        """Waits until all peers have what the daemon had when it answered a barrier at the heads of each; the answer."""
        for peer in peers:
            response = await peer.request(self.url, "barrier", at_heads=True)
            assert "result" in response, response
        result: dict[str, Any] = response["result"]
        self.runtime = f"automerge:{result['runtime']}"  # another than before, if the daemon replaced it
        for peer in peers:
            await peer.wait_heads(self.url, result["notebook_heads"])
            await peer.wait_heads(self.runtime, result["heads"])
        return result

    async def execute(self, peer: StockPeer, cell_id: str, **params: Any) -> dict[str, Any]:
        """Executes a cell and waits for its end; the params of its execution_done."""
        result = await self.ask(peer, "execute_cell", cell_id=cell_id, **params)
        event = await peer.wait_event(self.url, "execution_done", execution_id=result["execution_id"])
        done: dict[str, Any] = event["params"]
        return done

    async def text(self, peer: StockPeer, cell_id: str) -> str:
        """What a cell printed, as this peer has it; short texts only."""
        outputs = await peer.doc(self.runtime, ["cells", cell_id, "outputs"])
        return "".join(part for output in outputs if output["output_type"] == "stream" for part in output["text"])

    async def file(self) -> dict[str, Any]:
        """The notebook as an .ipynb, by HTTP."""
        answer = await self.daemon.get(f"/api/notebooks/{self.id}/file")
        notebook: dict[str, Any] = answer.raise_for_status().json()
        return notebook

    async def metric(self, name: str) -> float:
        """A figure of the daemon's /metrics."""
        answer = await self.daemon.get("/metrics")
        lines = answer.raise_for_status().text.splitlines()
        return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ")))


async def open_notebook(daemon: DaemonProcess, sources: Mapping[str, str], name: str = "test.ipynb") -> Notebook:
    """Writes a notebook of these code cells into the daemon's root and opens it."""
    write_notebook(daemon.root / name, sources)
    opened = await daemon.open(name)
    return Notebook(daemon, opened["id"], opened["notebook"], opened["runtime"])


def executions_ended(count: int) -> str:
    """A JS expression: so many executions are there and none of them waits or runs."""
    return (
        f"Object.keys(doc.executions).length === {count} && "
        "Object.values(doc.executions).every(e => !['queued', 'running'].includes(String(e.status))) && "
        "String(doc.kernel.status) === 'idle'"
    )


def figures(reports: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Sums of what several peers' reports count."""
    names = ("events", "responses", "early", "gaps", "repeats", "unopened", "foreign")
    return {name: sum(report[name] for report in reports) for name in names}
