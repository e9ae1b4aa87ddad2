"""A notebook with widgets at a real daemon: stock peers that drive it, and late ones that know the document alone."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from sync.core.value_reading import blob_hashes, decode_manifest, decode_state
from tests.fakes.runtime_document import short
from tests.fakes.served_daemon import Opened, ServedDaemon
from tests.fakes.stock_peer import StockPeer, open_stock_peer


def notebook_file(sources: Sequence[str]) -> dict[str, Any]:
    """An .ipynb of code cells c0, c1, ..."""
    cells = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
        for n, source in enumerate(sources)
    ]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


async def open_story(daemon: ServedDaemon, *sources: str, file: Mapping[str, Any] | None = None) -> Opened:
    """Writes a notebook, of these cells or as it is given, and opens it."""
    path = f"{uuid4()}.ipynb"
    (daemon.root / path).write_text(json.dumps(file or notebook_file(sources)))
    return await daemon.open(path)


@dataclass
class Seen:
    """The comms as one peer has them: state decoded, outputs as in a notebook file."""

    comms: dict[str, dict[str, Any]]

    def by_model(self, name: str) -> list[dict[str, Any]]:
        """All of a model, in the order of their opening."""
        found = [comm for comm in self.comms.values() if comm["model_name"] == f"{name}Model"]
        return sorted(found, key=lambda comm: comm["order"])

    def one(self, name: str) -> dict[str, Any]:
        """The only one of a model."""
        [comm] = self.by_model(name)
        return comm

    def at(self, reference: str) -> dict[str, Any]:
        """What an `IPY_MODEL_...` refers to."""
        return self.comms[reference.removeprefix("IPY_MODEL_")]

    def children(self, comm: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A box's children."""
        return [self.at(reference) for reference in comm["state"]["children"]]


class Watcher:
    """One stock peer of a notebook."""

    def __init__(self, daemon: ServedDaemon, opened: Opened, peer: StockPeer) -> None:
        self.daemon = daemon
        self.notebook, self.runtime = opened.notebook, opened.runtime
        self.peer = peer

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """A request that must succeed."""
        response = await self.peer.request(self.notebook, method, params)
        assert "result" in response, response
        result: dict[str, Any] = response["result"]
        return result

    async def refusal(self, method: str, **params: Any) -> str:
        """A request that must fail; the reason."""
        response = await self.peer.request(self.notebook, method, params)
        assert "error" in response, response
        reason: str = response["error"]["data"]["reason"]
        return reason

    async def run(self, *cell_ids: str) -> None:
        """Executes cells, one after the other, to their ends."""
        for cell_id in cell_ids:
            result = await self.ask("execute_cell", cell_id=cell_id)
            status = f"String(doc.executions['{result['execution_id']}'].status)"
            await self.peer.wait(self.runtime, f"!['queued', 'running'].includes({status})")

    async def set(self, comm_id: str, **state: Any) -> None:
        """update_comm."""
        await self.ask("update_comm", comm_id=comm_id, state=state)

    async def doc(self) -> dict[str, Any]:
        """The runtime document."""
        doc: dict[str, Any] = await self.peer.doc(self.runtime)
        return doc

    async def seen(self) -> Seen:
        """The comms as this peer has them now."""
        comms = (await self.doc())["comms"]
        load = (await self._blobs(comms.values())).__getitem__
        for comm in comms.values():
            comm["state"] = decode_state(comm["state"], load)
            if "outputs" in comm:
                comm["outputs"] = [decode_manifest(manifest, load) for manifest in comm["outputs"]]
        return Seen(comms)

    async def id_of(self, model: str) -> str:
        """The comm id of the only widget of a model."""
        comms = (await self.doc())["comms"]
        [comm_id] = [comm_id for comm_id, comm in comms.items() if comm["model_name"] == f"{model}Model"]
        return comm_id

    async def cell(self, cell_id: str) -> list[Any]:
        """What a cell shows, short."""
        manifests = (await self.doc())["cells"][cell_id]["outputs"]
        load = (await self._blobs(manifests)).__getitem__
        return [short(decode_manifest(manifest, load)) for manifest in manifests]

    async def captured(self, comm_id: str) -> list[Any]:
        """What an Output widget shows, short."""
        return [short(output) for output in (await self.seen()).comms[comm_id]["outputs"]]

    async def _blobs(self, values: Iterable[Any]) -> dict[str, bytes]:
        hashes = {found for value in values for found in blob_hashes(value)}
        async with self.daemon.client() as client:
            return {found: await _blob(client, found) for found in hashes}


async def _blob(client: httpx.AsyncClient, blob_hash: str) -> bytes:
    return (await client.get(f"/blobs/{blob_hash}")).raise_for_status().content


@asynccontextmanager
async def watching(daemon: ServedDaemon, opened: Opened) -> AsyncIterator[Watcher]:
    """A stock peer that has both documents, and the notebook loaded."""
    async with open_stock_peer(daemon.sync_url, daemon.token) as peer:
        await peer.find(opened.notebook)
        await peer.find(opened.runtime)
        await peer.record(opened.notebook)
        await peer.wait_value(opened.runtime, ["file", "status"], "ready")
        yield Watcher(daemon, opened, peer)
