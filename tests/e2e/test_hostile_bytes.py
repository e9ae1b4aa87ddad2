"""Hostile bytes over real sockets, at a real daemon under a limit of its memory; an honest peer executes beside it."""

import os
import resource
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

import psutil
import pytest
import trio

from sync.core.identifiers import DocumentId, parse_automerge_url
from tests.e2e.conftest import make_home
from tests.fakes.hostile_peers import (
    Inputs,
    Make,
    changes_of,
    frames_about,
    requests_about,
    send_heads,
    send_inputs,
    sync_messages_about,
)
from tests.fakes.served_daemon import ServedDaemon, served_daemon
from tests.fakes.thin_peer import ThinPeer, open_thin_peer
from tests.fuzz.heads import TOKEN

MAX_MEMORY_BYTES = 1024**3
VIEWER_TOKEN = "look-and-be-quiet"  # of this test's daemon
TASKS = 3  # of each kind at once
SHORT = {"frames": 600, "viewers": 200, "sync": 300, "changes": 300, "requests": 600, "heads": 600}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ServedDaemon]:
    """One of its own, with the token that the fuzzer's HTTP heads know."""
    with tempfile.TemporaryDirectory(prefix="nb-", ignore_cleanup_errors=True) as home:
        environment = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
        environment |= make_home(Path(home)) | {"RUST_BACKTRACE": "0"}
        options = ("--token", TOKEN, "--viewer-token", VIEWER_TOKEN)
        with served_daemon(tmp_path, environment, *options) as served:
            yield served


async def execute_until(peer: ThinPeer, cell_id: str, enough: trio.Event, at_least: int = 0) -> list[float]:
    """Executes a cell again and again; the seconds that each took, from the request to its end with the document."""
    seconds: list[float] = []
    while not enough.is_set() or len(seconds) < at_least:
        started = perf_counter()
        assert await peer.run(cell_id) == "done"
        seconds.append(perf_counter() - started)
    return seconds


def latencies(seconds: Sequence[float]) -> str:
    ordered = sorted(1000 * one for one in seconds)
    p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return f"{len(ordered)} executions, p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {ordered[-1]:.1f} ms"


async def attack(daemon: ServedDaemon, seed: int, times: int) -> tuple[list[Inputs], list[str]]:
    """Sends everything, and says what the honest peer and the daemon's memory had of it.

    Raises:
        AssertionError: somebody else than a hostile peer was harmed.
    """
    # The attacked notebook has no kernel: what its executions cost is not the question here.
    attacked, own = await daemon.open(kernel_name="no-such-kernel"), await daemon.open()
    document = parse_automerge_url(attacked.notebook)
    async with open_thin_peer(daemon, attacked) as reader:
        heads = reader.notebook.replica.heads()
        chunks = [bytes(change.raw_bytes) for change in reader.notebook.replica.changes_since(())]
    all_documents = [parse_automerge_url(url) for url in (attacked.notebook, attacked.runtime)]
    own_documents = [parse_automerge_url(url) for url in (own.notebook, own.runtime)]
    kinds: list[tuple[str, str, DocumentId, Make]] = [
        ("frames", TOKEN, document, frames_about(all_documents)),
        ("viewers", VIEWER_TOKEN, own_documents[0], frames_about(own_documents)),
        ("sync", TOKEN, document, sync_messages_about(document, heads)),
        ("changes", TOKEN, document, changes_of(document, chunks)),
        ("requests", TOKEN, document, requests_about(document)),
    ]
    sent = [Inputs(kind, seed, times * SHORT[kind]) for kind, *_ in kinds]
    heads_sent = Inputs("heads", seed, times * SHORT["heads"])
    process = psutil.Process(daemon.pid)
    async with open_thin_peer(daemon, own) as honest:
        cell_id = honest.add_cell("1 + 1")
        done = trio.Event()
        done.set()
        quiet = await execute_until(honest, cell_id, done, at_least=50)
        if hasattr(resource, "prlimit"):
            resource.prlimit(daemon.pid, resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        before = peak = process.memory_info().rss
        done = trio.Event()
        beside: list[float] = []

        async def watch() -> None:
            nonlocal peak
            beside.extend(await execute_until(honest, cell_id, done, at_least=50))
            peak = max(peak, process.memory_info().rss)

        async def send_all() -> None:
            async with trio.open_nursery() as senders:
                for _ in range(TASKS):
                    for inputs, (_, *how, make) in zip(sent, kinds, strict=True):
                        senders.start_soon(send_inputs, daemon, *how, inputs, make)
                    senders.start_soon(send_heads, daemon, heads_sent)
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            nursery.start_soon(send_all)
        assert await honest.outputs(cell_id), "the honest notebook is as it was"
        assert honest.errors == []
    async with open_thin_peer(daemon, attacked) as later:
        later.add_cell("still here")
        await later.settle()
        assert later.errors == []
        saved = await later.request("save_notebook")
        assert saved["path"]
    after = process.memory_info().rss
    figures = [
        f"beside it: {latencies(beside)}; before it: {latencies(quiet)}",
        f"the daemon's RSS: {before / 2**20:.0f} MiB before, {after / 2**20:.0f} MiB after",
    ]
    return [*sent, heads_sent], figures


async def test_hostile_bytes_harm_nobody_else(daemon: ServedDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    sent, figures = await attack(daemon, seed=1, times=1)
    _show(sent, figures, capsys)


@pytest.mark.soak
@pytest.mark.time_limit(3600)
async def test_very_many_hostile_bytes_harm_nobody_else(
    daemon: ServedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    sent, figures = await attack(daemon, seed=2, times=40)
    _show(sent, figures, capsys)


def _show(sent: Sequence[Inputs], figures: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print("", *(f"Hostile: {line}" for line in (*sent, *figures)), sep="\n")
    for inputs in sent:
        assert inputs.sent == inputs.count
        assert inputs.outcomes.total() == inputs.connections
