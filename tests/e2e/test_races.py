"""Executions against edits, deletions and each other; interrupt, restart and shutdown against executions and each other."""

import os
import random
from collections import Counter

import pytest
import trio

from tests.fakes.scripted_kernel import ARGV
from tests.fakes.served_daemon import ServedDaemon
from tests.fakes.thin_peer import Asked, ThinPeer, open_thin_peer
from tests.fakes.weather import end_of_thin, told_by
from tests.history import Asked as AskedFor
from tests.history import History, Ran, violations

HELD = "open('gate').read()"  # a FIFO: until somebody writes


def text_of(outputs: list[dict[str, object]]) -> str:
    return "".join("".join(output.get("text", "")) for output in outputs)  # type: ignore[arg-type]  # a list of strings


async def test_what_was_asked_for_runs_whatever_becomes_of_its_cell(daemon: ServedDaemon) -> None:
    async with daemon.opened() as opened, open_thin_peer(daemon, opened) as peer:
        gate = opened.path.parent / "gate"
        os.mkfifo(gate)
        first = await peer.execute(peer.add_cell(HELD))
        await peer.event("execution_started", execution_id=first)
        edited, deleted, gone = (peer.add_cell(f"print('as asked {n}')") for n in range(3))
        runs = [await peer.execute(cell_id) for cell_id in (edited, deleted)]
        before = peer.notebook_heads()
        peer.edit(edited, "print('edited after')")
        peer.delete_cell(deleted)
        peer.delete_cell(gone)
        await peer.settle()
        assert (
            await peer.refusal("execute_cell", cell_id=gone, notebook_heads=peer.notebook_heads())
        ).reason == "not_found"
        # At heads where it was still there, it is what these heads say.
        past = (await peer.request("execute_cell", cell_id=gone, notebook_heads=before))["execution_id"]
        gate.write_text("")
        assert await peer.done(first) == "done"
        # A queued execution of a deleted cell is cancelled; the edited one runs as it was when it was asked for.
        assert [await peer.done(execution_id) for execution_id in [*runs, past]] == ["done", "cancelled", "done"]
        assert text_of(await peer.outputs(edited)) == "as asked 0\n"
        assert text_of(await peer.outputs(gone)) == "as asked 2\n"


async def test_what_waits_behind_a_widgets_handler_can_be_cancelled_and_meets_no_interrupt(
    daemon: ServedDaemon,
) -> None:
    async with daemon.opened() as opened, open_thin_peer(daemon, opened) as peer:
        handler = "lambda _: any(time.sleep(0.1) for _ in range(6_000))"
        source = f"import ipywidgets, time\nb = ipywidgets.Button()\nb.on_click({handler})"
        assert await peer.run(peer.add_cell(source)) == "done"
        [button] = [c for c, comm in peer.read("comms").items() if comm["model_name"] == "ButtonModel"]
        await peer.request("comm_custom", comm_id=button, content={"event": "click"})
        await peer.wait(lambda: peer.read("kernel", "status") == "busy")
        first, second = [await peer.execute(peer.add_cell("print('ran')")) for _ in range(2)]
        peer.add_cell("1")
        assert await peer.request("cancel_execution", execution_id=first)
        assert await peer.done(first) == "cancelled"
        run = (await peer.request("run_all_cells", notebook_heads=peer.notebook_heads()))["executions"]
        assert (await peer.request("interrupt"))["execution_id"] is None
        assert await peer.done(second) == "done"
        assert [await peer.done(one["execution_id"]) for one in run] == ["done"] * len(run)


async def test_what_the_kernel_was_given_is_running_when_somebody_cancels_it(daemon: ServedDaemon) -> None:
    async with daemon.opened() as opened, open_thin_peer(daemon, opened) as peer:
        assert await peer.run(peer.add_cell("import time")) == "done"
        cell_id = peer.add_cell("time.sleep(0.05)")
        answers = set()
        for _ in range(20):
            execution_id = await peer.execute(cell_id)
            answers.add((await peer.request("cancel_execution", execution_id=execution_id))["status"])
            assert await peer.done(execution_id) == "done"
        assert "running" in answers  # on a busy machine not each time
        assert answers <= {"queued", "running", "done"}


async def test_one_cell_a_hundred_times_by_two_peers_at_once(daemon: ServedDaemon) -> None:
    async with (
        daemon.opened() as opened,
        open_thin_peer(daemon, opened) as one,
        open_thin_peer(daemon, opened) as two,
    ):
        cell_id = one.add_cell("runs = globals().get('runs', 0) + 1; print(runs)")
        await one.settle()
        await two.wait(lambda: two.notebook_heads() == one.notebook_heads())
        asked: list[Asked] = []
        for _ in range(50):
            asked += [
                peer.ask("execute_cell", cell_id=cell_id, notebook_heads=peer.notebook_heads()) for peer in (one, two)
            ]
            if len(asked) % 20 == 0:  # 64 may be in flight for one peer
                for one_asked in asked:
                    await one_asked.result()
        ids = [(await one_asked.result())["execution_id"] for one_asked in asked]
        assert len(set(ids)) == 100
        assert {await one.done(execution_id) for execution_id in ids} == {"done"}
        for peer in (one, two):
            await peer.settle()
            started = [event.params["execution_id"] for event in peer.heard("execution_started")]
            done = [event.params["execution_id"] for event in peer.heard("execution_done")]
            assert started == done
            assert set(done) == set(ids)
            assert [event.params["execution_count"] for event in peer.heard("execution_done")] == list(range(1, 101))
            assert text_of(await peer.outputs(cell_id)) == "100\n"
            assert peer.read("cells", cell_id, "execution_id") == done[-1]


COMMANDS = ("interrupt", "restart_kernel", "shutdown_kernel", "launch_kernel", "execute_cell")


@pytest.mark.parametrize("seed", range(3))
async def test_commands_that_race_each_other_are_all_answered_and_leave_a_kernel_that_works(
    daemon: ServedDaemon, seed: int
) -> None:
    """All at once, from two peers, and nobody waits for an answer before the next."""
    rng = random.Random(seed)
    async with (
        daemon.opened() as opened,
        open_thin_peer(daemon, opened) as one,
        open_thin_peer(daemon, opened) as two,
    ):
        await one.request("launch_kernel")
        cells = [one.add_cell(source) for source in ("1", "import time; time.sleep(0.05)", "while True: pass")]
        await one.settle()
        await two.wait(lambda: two.notebook_heads() == one.notebook_heads())
        answers: Counter[str] = Counter()
        executed: list[Asked] = []
        for _ in range(2):
            asked: list[tuple[str, Asked]] = []
            for _ in range(12):
                peer, method = rng.choice((one, two)), rng.choice(COMMANDS)
                params = {"cell_id": rng.choice(cells)} if method == "execute_cell" else {}
                asked.append((method, peer.ask(method, **params)))
                if rng.random() < 0.3:
                    heard = len(one.events)
                    with trio.move_on_after(0.1):
                        await one.wait(lambda heard=heard: len(one.events) > heard)  # type: ignore[misc]
            for method, answer in asked:
                await answer.arrived.wait()
                error = answer.response.get("error")
                answers[f"{method} {error['data']['reason'] if error else 'ok'}"] += 1
                executed += [answer] if method == "execute_cell" and not error else []
        await one.request("restart_kernel")  # which ends what still runs
        ids = [answer.response["result"]["execution_id"] for answer in executed]
        for execution_id in ids:
            for peer in (one, two):
                await peer.done(execution_id)
        assert await one.run(cells[0]) == "done"
        for peer in (one, two):
            await peer.settle()
        assert no_violations(one, two, ids) == []
        reasons = {answer.split()[1] for answer in answers}
        # No kernel to interrupt; or a launch that a later shutdown or restart gave up.
        assert reasons <= {"ok", "no_kernel", "kernel_failed"}, answers
        print(dict(answers))


def no_violations(one: ThinPeer, two: ThinPeer, ids: list[str]) -> list[str]:
    """What P3 does not allow, in what both heard and have; the kernel keeps no record here."""
    histories = [History(name, [told_by(peer)], end=end_of_thin(peer)) for name, peer in (("one", one), ("two", two))]
    histories[0].asked = [AskedFor(execution_id, "", "", "accepted") for execution_id in ids]
    return violations(histories, Ran(), witness="one")


async def test_a_kernel_that_ignores_interrupts_is_restarted_and_shut_down_all_the_same(daemon: ServedDaemon) -> None:
    daemon.add_kernelspec("stubborn", ARGV)
    deaf = (
        "for name in ('SIGINT', 'SIGTERM'): signal.signal(signal.Signals[name], signal.SIG_IGN)\n"
        "begin(); stdout('in'); threading.Event().wait()"
    )
    async with daemon.opened(kernel_name="stubborn") as opened, open_thin_peer(daemon, opened) as peer:
        for command, status in (("restart_kernel", "idle"), ("shutdown_kernel", "not_started")):
            execution_id = await peer.execute(peer.add_cell(deaf))
            await peer.event("execution_started", execution_id=execution_id)
            for _ in range(3):
                assert (await peer.request("interrupt"))["execution_id"] == execution_id
            assert peer.status(execution_id) == "running"
            await peer.request(command)
            assert await peer.done(execution_id) == "interrupted"
            assert peer.read("kernel", "status") == status
