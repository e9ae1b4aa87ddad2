"""P3: whatever happens to kernel, cell or daemon, what was accepted starts at most once and ends exactly once."""

import random
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

from tests.fakes.daemon_process import running_daemon
from tests.fakes.served_daemon import Opened, ServedDaemon
from tests.fakes.thin_peer import Asked, RequestFailed, ThinPeer, open_thin_peer

FINAL = {"done", "error", "interrupted", "cancelled"}
AT_ONCE = 30
STOP_SECONDS = 7.0  # SIGTERM to exit: 5 s at most, and the end of the interpreter on a loaded machine
SOURCES = (
    "1 + 1",
    "print('text')",
    "import time\nfor n in range(10): print(n, flush=True); time.sleep(0.01)",
    "import time; time.sleep(0.1)",
    "raise ValueError('of the source')",
    "display('shown', display_id='d')",
)


class Executions:
    """What two peers asked for, and what each must have heard of it in the end."""

    def __init__(self, peers: Sequence[ThinPeer], rng: random.Random) -> None:
        self.peers = peers
        self.rng = rng
        self.asked: list[Asked] = []

    def ask(self, count: int) -> None:
        """Asks for so many executions at once, of cells of each peer's own, without waiting for an answer."""
        for number in range(count):
            peer = self.peers[number % len(self.peers)]
            cell_id = peer.add_cell(self.rng.choice(SOURCES))
            self.asked.append(peer.ask("execute_cell", cell_id=cell_id, notebook_heads=peer.notebook_heads()))

    def accepted(self) -> list[str]:
        """Ids of those that were accepted, as far as the answers are here."""
        return [asked.response["result"]["execution_id"] for asked in self.asked if "result" in asked.response]

    async def ended(self) -> None:
        """Waits until all are answered, and all that were accepted have ended, at every peer."""
        for asked in self.asked:
            await self.peers[0].wait(asked.arrived.is_set, within=20)
        for peer in self.peers:
            for execution_id in self.accepted():
                await peer.done(execution_id, within=20)

    def check(self) -> Counter[str]:
        """Says P3 of all of them; how many ended how."""
        accepted = self.accepted()
        assert accepted, self.asked[0].response
        for peer in self.peers:
            _check_events(peer, accepted)
            _check_document(peer, accepted)
        return Counter(self.peers[0].status(execution_id) or "" for execution_id in accepted)


def _check_events(peer: ThinPeer, accepted: Sequence[str]) -> None:
    seqs = [event.params["seq"] for event in peer.events]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    started = [event.params["execution_id"] for event in peer.heard("execution_started")]
    done = {event.params["execution_id"]: event.params["status"] for event in peer.heard("execution_done")}
    assert len(set(started)) == len(started)
    assert len(done) == len(peer.heard("execution_done"))
    assert set(accepted) <= done.keys()
    assert set(done.values()) <= FINAL
    assert set(started) == {execution_id for execution_id, status in done.items() if status != "cancelled"}
    ends = [event.params["execution_id"] for event in peer.heard("execution_done")]
    assert [execution_id for execution_id in ends if execution_id in started] == started
    orders = [peer.read("executions", execution_id, "order") for execution_id in started]
    assert orders == sorted(orders)
    for index, event in enumerate(peer.events):
        if event.method == "execution_done" and event.params["status"] != "cancelled":
            before = peer.events[:index]
            execution_id = event.params["execution_id"]
            assert any(e.method == "execution_started" and e.params["execution_id"] == execution_id for e in before)


def _check_document(peer: ThinPeer, accepted: Sequence[str]) -> None:
    executions: dict[str, dict[str, Any]] = peer.read("executions")
    assert set(accepted) <= executions.keys()
    for event in peer.heard("execution_done"):
        execution = executions[event.params["execution_id"]]
        assert execution["status"] == event.params["status"]
        assert execution["execution_count"] == event.params["execution_count"]
        assert "ended_at" in execution
        assert ("started_at" in execution) == (execution["status"] != "cancelled")
    assert all(execution["status"] in FINAL for execution in executions.values())
    assert peer.read("queue") == {"executing": None, "queued": []}
    assert peer.read("kernel", "status") not in ("busy", "starting", "restarting")
    # In each commit, too: nothing that ended ever comes back, and what runs is in one place.
    last: dict[str, str] = {}
    rank = {"queued": 0, "running": 1, **dict.fromkeys(FINAL, 2)}
    for change in peer.runtime.replica.changes_since(()):
        heads = (bytes(change.hash),)
        now = {i: e["status"] for i, e in (peer.read("executions", heads=heads) or {}).items()}
        for execution_id, status in now.items():
            before = last.get(execution_id, "queued")
            assert before == status or rank[before] < rank[status], (execution_id, before, status)
        queue = peer.read("queue", heads=heads)
        running = [execution_id for execution_id, status in now.items() if status == "running"]
        assert running == ([queue["executing"]] if queue and queue["executing"] else [])
        last = now


class Trouble:
    """What goes wrong, or is done by people, while executions wait and run."""

    def __init__(self, daemon: ServedDaemon, peers: Sequence[ThinPeer], rng: random.Random) -> None:
        self.daemon = daemon
        self.peers = peers
        self.rng = rng
        self.made: Counter[str] = Counter()

    async def make(self, name: str) -> None:
        """One of the things by name, by a random peer."""
        self.made[name] += 1
        await getattr(self, name)(self.rng.choice(self.peers))

    async def kill(self, peer: ThinPeer) -> None:
        del peer
        for kernel in self.daemon.kernels():
            kernel.send_signal(signal.SIGKILL)

    async def restart(self, peer: ThinPeer) -> None:
        await self._tolerant(peer, "restart_kernel")

    async def shutdown(self, peer: ThinPeer) -> None:
        await self._tolerant(peer, "shutdown_kernel")

    async def interrupt(self, peer: ThinPeer) -> None:
        await self._tolerant(peer, "interrupt")

    async def cancel(self, peer: ThinPeer) -> None:
        known = list(peer.read("executions"))
        for execution_id in self.rng.sample(known, min(3, len(known))):
            await self._tolerant(peer, "cancel_execution", execution_id=execution_id)

    async def delete_queued(self, peer: ThinPeer) -> None:
        queued = peer.read("queue", "queued")
        if queued:
            self._delete(peer, self.rng.choice(queued))

    async def delete_running(self, peer: ThinPeer) -> None:
        running = peer.read("queue", "executing")
        if running:
            self._delete(peer, running)

    def _delete(self, peer: ThinPeer, execution_id: str) -> None:
        peer.delete_cell(peer.read("executions", execution_id, "cell_id"))

    async def _tolerant(self, peer: ThinPeer, method: str, **params: Any) -> None:
        """A request that may meet no kernel, one that dies, or one that somebody else just ended."""
        try:
            await peer.request(method, **params)
        except RequestFailed as refused:
            if refused.reason not in ("no_kernel", "kernel_failed"):
                raise


ROUGH = ("kill", "restart", "shutdown")
GENTLE = ("interrupt", "cancel", "delete_queued", "delete_running")


async def some_trouble(daemon: ServedDaemon, seed: int, rounds: int) -> Counter[str]:
    """So many rounds of 30 executions at once, with trouble at random moments; how they ended."""
    rng = random.Random(seed)
    async with (
        daemon.opened() as opened,
        open_thin_peer(daemon, opened) as first,
        open_thin_peer(daemon, opened) as second,
    ):
        peers = (first, second)
        executions, trouble = Executions(peers, rng), Trouble(daemon, peers, rng)
        for _ in range(rounds):
            if rng.random() < 0.7:
                await first.request("launch_kernel")
            executions.ask(AT_ONCE)
            for name in [*rng.choices(GENTLE, k=4), rng.choice(ROUGH)]:
                # A moment is so many events after the last one, and a bit: in the middle of whatever happens then.
                heard = len(first.events) + rng.randrange(1, 25)
                with trio.move_on_after(1):
                    await first.wait(lambda heard=heard: len(first.events) >= heard)  # type: ignore[misc]
                await trio.sleep(rng.random() * 0.02)
                await trouble.make(name)
            await executions.ended()
        for peer in peers:
            await peer.settle()
        ended = executions.check()
        ended.update({f"after {name}": count for name, count in trouble.made.items()})
        return ended


@pytest.mark.parametrize("seed", range(5))
async def test_every_execution_ends_once_whatever_happens_to_the_kernel(daemon: ServedDaemon, seed: int) -> None:
    ended = await some_trouble(daemon, seed, rounds=2)
    print(f"seed {seed}: {dict(ended)}")


@pytest.mark.soak
@pytest.mark.time_limit(1800)
async def test_every_execution_ends_once_in_the_long_run(daemon: ServedDaemon) -> None:
    ended: Counter[str] = Counter()
    for seed in range(1000, 1060):
        with trio.fail_after(120):
            ended += await some_trouble(daemon, seed, rounds=3)
    print(f"60 seeds: {dict(ended)}")
    assert ended.keys() >= FINAL


@pytest.mark.parametrize("seed", range(3))
async def test_every_execution_ends_before_the_daemon_does(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    async with running_daemon(tmp_path) as daemon:
        opened = await daemon.open("last.ipynb", create=True)
        documents = Opened(opened["id"], daemon.root / "last.ipynb", opened["notebook"], opened["runtime"])
        async with open_thin_peer(daemon, documents) as first, open_thin_peer(daemon, documents) as second:
            executions = Executions((first, second), rng)
            executions.ask(AT_ONCE)
            heard = rng.choice((1, 3, 20, 40))
            await first.wait(lambda: len(first.events) >= heard)
            begun = trio.current_time()
            daemon.signal(signal.SIGTERM)
            # Peers go on asking: what is accepted now ends as well.
            while not (first.ended.is_set() and second.ended.is_set()):
                executions.ask(2)
                with trio.move_on_after(0.02):
                    await first.ended.wait()
                    await second.ended.wait()
            executions.check()
            answers = [asked.response for asked in executions.asked if asked.response]
            reasons = Counter(answer["error"]["data"]["reason"] for answer in answers if "error" in answer)
            assert reasons.keys() <= {"shutting_down", "not_found"}  # not found: the notebook is closed by then
            assert first.read("kernel", "status") == "not_started"
        await daemon.process.wait()
        assert daemon.process.returncode == 0
        assert trio.current_time() - begun < STOP_SECONDS


async def test_a_kernel_that_does_not_want_to_end_holds_up_nobody(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        opened = await daemon.open("last.ipynb", create=True)
        documents = Opened(opened["id"], daemon.root / "last.ipynb", opened["notebook"], opened["runtime"])
        async with open_thin_peer(daemon, documents) as peer:
            stubborn = peer.add_cell(
                "import signal\nfor name in ('SIGINT', 'SIGTERM'): signal.signal(signal.Signals[name], signal.SIG_IGN)\n"
                "print('begun', flush=True)\nwhile True: pass"
            )
            running = await peer.execute(stubborn)
            queued = await peer.execute(peer.add_cell("1"))
            await peer.wait(lambda: peer.manifests(stubborn))
            [kernel] = psutil.Process(daemon.process.pid).children()
            begun = trio.current_time()
            daemon.signal(signal.SIGTERM)
            # At once, not when the kernel has been killed at last.
            assert (await peer.done(running, within=2), await peer.done(queued)) == ("interrupted", "cancelled")
            await peer.ended.wait()
        await daemon.process.wait()
        assert daemon.process.returncode == 0
        assert trio.current_time() - begun < STOP_SECONDS
        assert not kernel.is_running()


# Kernels that cannot be launched.

BROKEN = ["/no/such/program", "-f", "{connection_file}"]
DYING = [sys.executable, "-c", "import sys; sys.stderr.write('no license found'); sys.exit(3)", "{connection_file}"]
SILENT = [sys.executable, "-c", "import time; time.sleep(1000)", "{connection_file}"]


@pytest.mark.parametrize(
    ("name", "argv", "said"),
    [("broken", BROKEN, "/no/such/program"), ("dying", DYING, "exit code 3"), ("missing", None, "missing")],
)
async def test_a_kernel_that_cannot_be_launched_ends_what_waits_for_it(
    daemon: ServedDaemon, name: str, argv: list[str] | None, said: str
) -> None:
    if argv is not None:
        daemon.add_kernelspec(name, argv)
    async with daemon.opened(kernel_name=name) as opened, open_thin_peer(daemon, opened) as peer:
        executions = Executions((peer,), random.Random(0))
        executions.ask(AT_ONCE)
        await executions.ended()
        await peer.settle()
        assert executions.check() == {"cancelled": AT_ONCE}
        errors = peer.heard("kernel_error")
        assert {event.params["reason"] for event in errors} == {"launch_failed"}
        assert said in errors[0].params["message"]
        assert peer.read("kernel", "status") == "dead"
        assert said in peer.read("kernel", "error", "message")
        failed = await peer.refusal("launch_kernel")
        await peer.settle()
        # No attempt is left over from those that waited for the kernel.
        assert len(peer.heard("kernel_error")) == len(errors) + 1
        assert (failed.code, failed.reason) == (-32006, "kernel_failed")
        if name == "dying":
            assert failed.data["stderr"] == "no license found"
            assert errors[0].params["traceback"] == "no license found"
            assert peer.read("kernel", "error", "traceback") == "no license found"
        # Another kernel can be had all the same.
        assert (await peer.request("launch_kernel", kernel_name="python3"))["language"] == "python"
        assert await peer.run(peer.add_cell("1")) == "done"
        assert peer.read("kernel", "error") is None


@pytest.mark.parametrize("method", ["shutdown_kernel", "restart_kernel"])
async def test_a_launch_that_hangs_is_given_up(daemon: ServedDaemon, method: str) -> None:
    name = f"silent-{method.split('_')[0]}"
    daemon.add_kernelspec(name, SILENT)
    async with daemon.opened(kernel_name=name) as opened, open_thin_peer(daemon, opened) as peer:
        executions = Executions((peer,), random.Random(0))
        executions.ask(3)
        await peer.wait(lambda: len(executions.accepted()) == 3 and peer.read("kernel", "status") == "starting")
        asked = peer.ask(method)
        await executions.ended()
        if method == "restart_kernel":
            await peer.request("shutdown_kernel")
            with pytest.raises(RequestFailed, match="kernel_failed"):
                await asked.result()
        else:
            await asked.result()
        assert executions.check() == {"cancelled": 3}
        assert peer.read("kernel", "status") == "not_started"
