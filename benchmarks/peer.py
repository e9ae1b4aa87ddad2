"""A peer in a process of its own: our Python client."""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import trio

from benchmarks.workers import now, serve_async
from sync.client import open_notebook
from sync.client.executions import Execution
from sync.client.notebook import Notebook
from sync.core.binding import ROOT, ObjId, Replica


class Peer:
    """One notebook at a time."""

    def __init__(self) -> None:
        self._opened = AsyncExitStack()
        self._notebook: Notebook
        self._running: Execution

    async def open(self, url: str, token: str, notebook: str) -> float:
        """Connects; seconds until both documents are here and the daemon has read the whole file."""
        await self._opened.aclose()
        self._opened = AsyncExitStack()
        start = now()
        self._notebook = await self._opened.enter_async_context(open_notebook(url, token=token, notebook=notebook))
        return now() - start

    async def close(self) -> None:
        """Leaves."""
        await self._opened.aclose()

    async def execute(self, cell_id: str, count: int) -> dict[str, Any]:
        """Executes a cell whose result is 2, `count` times, one after another.

        Returns:
            {samples: seconds from the call of `execute` to its result with the outputs; sent, done: the moments of both;
            execution_ids; cpu: seconds of this process}.
        """
        samples, sent, done, ids = [], [], [], []
        cell = self._notebook.cell(cell_id)
        before = time.process_time()
        for _ in range(count):
            start = now()
            execution = await cell.execute()
            result = await execution.result()
            end = now()
            samples.append(end - start)
            sent.append(start)
            done.append(end)
            ids.append(execution.id)
            # Others may be before it: at its thousandth result IPython warns that its cache is full.
            assert result.outputs[-1].data == {"text/plain": "2"}, result
        cpu = time.process_time() - before
        return {"samples": samples, "sent": sent, "done": done, "execution_ids": ids, "cpu": cpu}

    async def flood(self, cell_id: str, last_line: str | None, outputs: int, texts: bool = True) -> dict[str, Any]:
        """Executes a cell once.

        Returns:
            {seconds: from the call of `execute` to the last line of text, or to so many outputs, in the replica; result:
            to its result with all blobs; texts, data: of the outputs; cpu: seconds of this process}.
        """
        before = time.process_time()
        start = now()
        execution = await self._notebook.cell(cell_id).execute()

        def is_there() -> bool:
            # Of a long stream the end is joined to what is before, and is then in a blob.
            return self._shows(execution, last_line, outputs) or execution.status == "done"

        await self._notebook.wait_for(is_there)
        end = now()
        result = await execution.result()
        assert result.status == "done", result.status
        return {
            "seconds": end - start,
            "result": now() - start,
            "texts": [output.text for output in result.outputs] if texts else [],
            "data": [output.data for output in result.outputs],
            "cpu": time.process_time() - before,
        }

    async def run(self, cell_id: str) -> None:
        """Executes a cell that is not measured."""
        result = await (await self._notebook.cell(cell_id).execute()).result()
        assert result.status == "done", result

    async def comms(self, cell_id: str, count: int, largest: int = 0) -> dict[str, float]:
        """Executes a cell; {seconds: until the replica has so many comms}, one value of which has so many bytes at least."""
        seconds = await self._until(cell_id, lambda: self._replica.length(self._at(ROOT, "comms")) == count)
        states = [comm["state"] for comm in self._notebook.runtime["comms"].values()]
        values = [value for state in states for value in state.values() if isinstance(value, dict)]
        assert max((value["size"] for value in values if "size" in value), default=0) >= largest
        return {"seconds": seconds}

    async def trait(self, cell_id: str, model: str, trait: str, value: int) -> dict[str, float]:
        """Executes a cell; {seconds: until a trait of the only widget of a model has a value}."""
        comm_id = self._comm(model)

        def is_there() -> bool:
            found = self._replica.get(self._at(ROOT, "comms", comm_id, "state"), trait)
            return found is not None and found[0] == value

        return {"seconds": await self._until(cell_id, is_there)}

    async def captured(self, cell_id: str, count: int) -> dict[str, float]:
        """Executes a cell; {seconds: until the only Output widget has so many outputs}."""
        comm_id = self._comm("OutputModel")
        return {
            "seconds": await self._until(
                cell_id, lambda: self._replica.length(self._at(ROOT, "comms", comm_id, "outputs")) == count
            )
        }

    async def load(self) -> float:
        """Seconds to load both documents from what they are saved as, without any peer."""
        saved = [self._notebook.notebook_replica.save(), self._replica.save()]
        start = now()
        for data in saved:
            Replica.load(data)
        return now() - start

    async def _until(self, cell_id: str, is_there: Callable[[], bool]) -> float:
        start = now()
        execution = await self._notebook.cell(cell_id).execute()
        await self._notebook.wait_for(is_there)
        seconds = now() - start
        result = await execution.result()
        assert result.status == "done", result
        assert is_there()
        return seconds

    def _comm(self, model: str) -> str:
        (comm_id,) = [i for i, comm in self._notebook.runtime["comms"].items() if comm["model_name"] == model]
        return str(comm_id)

    @property
    def _replica(self) -> Replica:
        return self._notebook.runtime_replica

    async def interrupt(self, cell_id: str, complete: str) -> dict[str, Any]:
        """Executes a cell that prints much, asks for a completion, interrupts.

        Returns:
            {seconds: until the execution's end; status: interrupted, or done where the kernel swallowed the interrupt (it
            came while a callback ran that ignores errors)}.
        """
        execution = await self._notebook.cell(cell_id).execute()
        await self._notebook.wait_for(lambda: execution.status == "running" and self._notebook.cell(cell_id).outputs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._notebook.complete, complete, len(complete))
            start = now()
            await self._notebook.interrupt()
            await self._notebook.wait_for(lambda: execution.status not in ("queued", "running"))
            seconds = now() - start
        result = await execution.result()
        assert result.status in ("interrupted", "done"), result.status
        return {"seconds": seconds, "status": result.status}

    async def start(self, cell_id: str) -> None:
        """Executes a cell and returns once it runs."""
        self._running = await self._notebook.cell(cell_id).execute()
        await self._notebook.wait_for(lambda: self._running.status == "running")

    async def finish(self) -> None:
        """Returns once what `start` started is done."""
        await self._running.result()

    async def save(self) -> None:
        """Saves the notebook to its file."""
        await self._notebook.save()

    def _shows(self, execution: Execution, last_line: str | None, outputs: int) -> bool:
        """Whether the end of an execution's outputs is in the replica; as quick for many as for one."""
        replica = self._notebook.runtime_replica
        cell = self._at(ROOT, "cells", execution.cell_id)
        found = replica.get(cell, "execution_id")
        if found is None or found[0] != execution.id:
            return False
        shown = self._at(cell, "outputs")
        if replica.length(shown) < outputs or last_line is None:
            return replica.length(shown) == outputs
        text = self._at(shown, outputs - 1, "text")
        segment = replica.get(text, replica.length(text) - 1) if replica.length(text) else None
        return segment is not None and isinstance(segment[0], str) and segment[0].endswith(last_line)

    def _at(self, obj: ObjId, *path: str | int) -> ObjId:
        for key in path:
            found = self._notebook.runtime_replica.get(obj, key)
            assert found is not None, path
            obj = found[1]
        return obj


async def _main() -> None:
    peer = Peer()
    commands = [getattr(peer, name) for name in dir(Peer) if not name.startswith("_")]
    try:
        await serve_async({command.__name__: command for command in commands})
    finally:
        with trio.move_on_after(5, shield=True):
            await peer.close()


if __name__ == "__main__":
    trio.run(_main)
