"""Document chunks for peers that join: made beside, a few at a time, and never the end of a room."""

import subprocess
from collections.abc import Callable, Collection
from typing import Any

import pytest
import trio
from automerge import core
from trio.testing import MockClock, wait_all_tasks_blocked

from sync import compactor
from sync.compact import UNSOUND
from sync.compactor import MAX_PROCESSES, VERIFY_SECONDS, Compactor
from sync.core.changes import CheckedChange
from sync.core.document import SNAPSHOT_FROM_CHANGES, Document
from sync.core.identifiers import document_id
from tests.fuzz.corpus import EDITS, NOTEBOOK, document_with, logged


def document(number: int = 0) -> Document:
    made = Document(document_id(bytes([number]) * 16))
    for change in range(SNAPSHOT_FROM_CHANGES):
        made.commit(lambda tx, change=change: tx.put(core.ROOT, f"k{change}", core.ScalarType.Int, change))
    made.publish()
    return made


def compactor_of(
    *documents: Document, unsound: Callable[[Document, Collection[bytes]], Any] | None = None
) -> Compactor:
    made = Compactor(unsound or unexpected)
    for one in documents:
        made.watch(one)
    return made


def unexpected(document: Document, culprits: Collection[bytes]) -> None:
    raise AssertionError((document, culprits))


class Processes:
    """Stands in for `trio.run_process`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running = self.most = self.started = 0
        self.may_end = trio.Event()
        self.error: OSError | None = None
        self.result = subprocess.CompletedProcess[bytes]([], 0, b"chunk", b"")
        monkeypatch.setattr(compactor.trio, "run_process", self.run)

    async def run(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        del command, options
        if self.error is not None:
            raise self.error
        self.started += 1
        self.running += 1
        self.most = max(self.most, self.running)
        await self.may_end.wait()
        self.running -= 1
        return self.result


async def test_only_a_few_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes(monkeypatch)
    documents = [document(number) for number in range(2 * MAX_PROCESSES)]
    async with trio.open_nursery() as nursery:
        for one in documents:
            nursery.start_soon(compactor_of(one).run)
        await wait_all_tasks_blocked()
        for one in documents:
            assert one.snapshot() is None
        await wait_all_tasks_blocked()
        assert processes.running == MAX_PROCESSES
        processes.may_end.set()
        await wait_all_tasks_blocked()
        assert processes.most == MAX_PROCESSES
        assert [one.snapshot() for one in documents] == [(SNAPSHOT_FROM_CHANGES, b"chunk")] * len(documents)
        nursery.cancel_scope.cancel()


async def test_a_process_that_can_not_be_had_is_asked_for_again_at_the_next_join(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes, joined = Processes(monkeypatch), document()
    processes.error = OSError(24, "Too many open files")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compactor_of(joined).run)
        await wait_all_tasks_blocked()
        assert joined.snapshot() is None
        await wait_all_tasks_blocked()
        processes.error = None
        processes.may_end.set()
        assert joined.snapshot() is None
        await wait_all_tasks_blocked()
        assert joined.snapshot() is not None
        nursery.cancel_scope.cancel()


async def test_a_document_that_can_not_be_compacted_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    processes, joined = Processes(monkeypatch), document()
    processes.may_end.set()
    processes.result = subprocess.CompletedProcess([], 1, b"", "half a character: é".encode()[:-1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compactor_of(joined).run)
        await wait_all_tasks_blocked()
        for _ in range(3):
            assert joined.snapshot() is None
            await wait_all_tasks_blocked()
        assert processes.started == 1
        nursery.cancel_scope.cancel()


async def test_what_peers_wrote_is_verified_though_nobody_joins(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    processes, edited = Processes(monkeypatch), document_with(document_id(b"e" * 16), NOTEBOOK)
    processes.may_end.set()
    quiet = document()
    found: list[tuple[Document, Collection[bytes]]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compactor_of(edited, quiet, unsound=lambda *unsound: found.append(unsound)).run)
        await trio.sleep(1)
        await take(edited, EDITS[0])
        await trio.sleep(VERIFY_SECONDS - 1)
        await take(edited, EDITS[1])
        assert processes.started == 0, "people type all the time"
        await trio.sleep(2)
        assert processes.started == 1
        assert not edited.has_unverified
        await trio.sleep(10 * VERIFY_SECONDS)
        assert processes.started == 1, "nothing new"

        processes.result = subprocess.CompletedProcess([], UNSOUND, EDITS[2].hash.hex().encode() + b"\n", b"")
        await take(edited, EDITS[2])
        await trio.sleep(VERIFY_SECONDS + 1)
        assert found == [(edited, [EDITS[2].hash])]
        nursery.cancel_scope.cancel()


async def take(document: Document, change: CheckedChange) -> None:
    document.apply([(logged(change), change.actor, change.seq, change.op_count)])
    await trio.sleep(0.01)  # the doc-writer stores blobs meanwhile
    document.publish()
