"""Hostile bytes over real sockets, at a real daemon under a limit of its memory; an honest peer executes beside it."""

import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import psutil
import pytest
import trio

from sync.core.identifiers import parse_automerge_url
from sync.core.limits import MIB
from tests.e2e.conftest import make_home
from tests.fakes.hostile_peers import Attack, Inputs
from tests.fakes.served_daemon import ServedDaemon, served_daemon
from tests.fakes.thin_peer import ThinPeer, open_thin_peer
from tests.fuzz.heads import TOKEN

MAX_MEMORY_BYTES = 1024**3
VIEWER_TOKEN = "look-and-be-quiet"  # of this test's daemon
MAX_GROWTH_BYTES = 256 * MIB  # an attacked notebook document grows, as any does
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


@dataclass
class Measured:
    """What an honest peer saw, and what the daemon took at most."""

    seconds: list[float]
    peak_bytes: int

    def __str__(self) -> str:
        ordered = sorted(1000 * one for one in self.seconds)
        p50, p99 = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
        return (
            f"{len(ordered)} executions of 1 + 1, p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {ordered[-1]:.1f} ms; "
            f"the daemon's RSS at most {self.peak_bytes / MIB:.0f} MiB"
        )


async def measure(daemon: ServedDaemon, peer: ThinPeer, cell_id: str, goes_on: Callable[[], bool]) -> Measured:
    """Executes a cell again and again, a hundred times at least; each from the request to its end with the document."""
    process, measured = psutil.Process(daemon.pid), Measured([], 0)
    while goes_on() or len(measured.seconds) < 100:
        started = perf_counter()
        assert await peer.run(cell_id) == "done"
        measured.seconds.append(perf_counter() - started)
        measured.peak_bytes = max(measured.peak_bytes, process.memory_info().rss)
    return measured


async def attack(daemon: ServedDaemon, seed: int, times: int) -> tuple[list[Inputs], list[str]]:
    """Sends everything, and says what the honest peer and the daemon's memory had of it.

    Raises:
        AssertionError: somebody else than a hostile peer was harmed.
    """
    # The attacked notebook has no kernel: what its executions cost is not the question here.
    attacked, own = await daemon.open(kernel_name="no-such-kernel"), await daemon.open()
    async with open_thin_peer(daemon, attacked) as reader:
        chunks = [bytes(change.raw_bytes).hex() for change in reader.notebook.replica.changes_since(())]
    hostile = Attack(
        url=daemon.url,
        sync_url=daemon.sync_url,
        token=TOKEN,
        viewer_token=VIEWER_TOKEN,
        attacked=[parse_automerge_url(url) for url in (attacked.notebook, attacked.runtime)],
        watched=[parse_automerge_url(url) for url in (own.notebook, own.runtime)],
        chunks=chunks,
        seed=seed,
        counts={kind: times * count for kind, count in SHORT.items()},
    )
    async with open_thin_peer(daemon, own) as honest:
        cell_id = honest.add_cell("1 + 1")
        await honest.run(cell_id)  # starts the kernel
        quiet = await measure(daemon, honest, cell_id, lambda: False)
        if hasattr(resource, "prlimit"):
            resource.prlimit(daemon.pid, resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        sent: list[Inputs] = []
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                sent.extend(await hostile.run())

            nursery.start_soon(send)
            beside = await measure(daemon, honest, cell_id, lambda: not sent)
        assert await honest.outputs(cell_id), "the honest notebook is as it was"
        assert honest.errors == []
    async with open_thin_peer(daemon, attacked) as later:
        later.add_cell("still here")
        await later.settle()
        assert later.errors == []
        saved = await later.request("save_notebook")
        assert saved["path"]
    assert beside.peak_bytes < quiet.peak_bytes + MAX_GROWTH_BYTES
    return sent, [f"beside it {beside}", f"before it {quiet}"]


@pytest.mark.time_limit(240)
async def test_hostile_bytes_harm_nobody_else(daemon: ServedDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    sent, figures = await attack(daemon, seed=1, times=1)
    _show(sent, figures, capsys)


@pytest.mark.soak
@pytest.mark.time_limit(3600)
async def test_very_many_hostile_bytes_harm_nobody_else(
    daemon: ServedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    sent, figures = await attack(daemon, seed=2, times=20)
    _show(sent, figures, capsys)


def _show(sent: Sequence[Inputs], figures: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print("", *(f"Hostile: {line}" for line in (*sent, *figures)), sep="\n", file=sys.stderr)
    for inputs in sent:
        assert inputs.sent == inputs.count
        assert inputs.outcomes.total() == inputs.connections
