"""input(): the prompt is in the document, so whoever is there may answer, once; and nothing that ends the cell leaves it."""

import signal

import pytest

from tests.fakes.served_daemon import ServedDaemon
from tests.fakes.thin_peer import ThinPeer, open_thin_peer

ASKS = "name = input('Who? ')\nprint('hello', name)"


async def prompt(peer: ThinPeer) -> str:
    """Waits for the prompt; its request_id."""
    asked = await peer.wait(lambda: peer.read("kernel", "input_request"))
    assert asked["prompt"] == "Who? "
    request_id: str = asked["request_id"]
    return request_id


async def text(peer: ThinPeer, cell_id: str) -> str:
    return "".join("".join(output.get("text", "")) for output in await peer.outputs(cell_id))


async def test_a_prompt_that_comes_when_nobody_is_there_waits_for_whoever_comes(daemon: ServedDaemon) -> None:
    async with daemon.opened() as opened:
        async with open_thin_peer(daemon, opened) as leaving:
            cell_id = leaving.add_cell(f"import time; time.sleep(0.5)\n{ASKS}")
            execution_id = await leaving.execute(cell_id)
            await leaving.event("execution_started", execution_id=execution_id)
            assert leaving.read("kernel", "input_request") is None
        async with open_thin_peer(daemon, opened) as late:
            await late.request("input_reply", request_id=await prompt(late), value="Ada")
            await late.wait(lambda: late.status(execution_id) == "done")
            assert late.read("kernel", "input_request") is None
            assert await text(late, cell_id) == "hello Ada\n"


async def test_of_two_peers_that_answer_one_is_taken_and_the_other_told(daemon: ServedDaemon) -> None:
    async with (
        daemon.opened() as opened,
        open_thin_peer(daemon, opened) as one,
        open_thin_peer(daemon, opened) as two,
    ):
        for _ in range(5):
            cell_id = one.add_cell(ASKS)
            execution_id = await one.execute(cell_id)
            request_id = await prompt(one)
            await prompt(two)
            asked = {
                name: peer.ask("input_reply", request_id=request_id, value=name)
                for name, peer in (("1", one), ("2", two))
            }
            for answer in asked.values():
                await answer.arrived.wait()
            [taken] = [name for name, answer in asked.items() if "result" in answer.response]
            [refused] = [answer.response["error"]["data"] for answer in asked.values() if "error" in answer.response]
            assert refused["reason"] == "no_input_pending"
            assert await one.done(execution_id) == await two.done(execution_id) == "done"
            assert await text(two, cell_id) == f"hello {taken}\n"
            assert one.read("kernel", "input_request") is two.read("kernel", "input_request") is None


async def test_who_asked_may_leave_and_another_answers(daemon: ServedDaemon) -> None:
    async with daemon.opened() as opened, open_thin_peer(daemon, opened) as stays:
        async with open_thin_peer(daemon, opened) as leaves:
            cell_id = leaves.add_cell(ASKS)
            execution_id = await leaves.execute(cell_id)
            request_id = await prompt(leaves)
        assert await prompt(stays) == request_id
        await stays.request("input_reply", request_id=request_id, value="Bob")
        assert await stays.done(execution_id) == "done"
        assert await text(stays, cell_id) == "hello Bob\n"


@pytest.mark.parametrize("how", ["restart_kernel", "shutdown_kernel", "interrupt", "death"])
async def test_what_ends_the_cell_ends_the_prompt(daemon: ServedDaemon, how: str) -> None:
    async with daemon.opened() as opened, open_thin_peer(daemon, opened) as peer:
        execution_id = await peer.execute(peer.add_cell(ASKS))
        request_id = await prompt(peer)
        queued = await peer.execute(peer.add_cell("2"))
        if how == "death":
            [kernel] = daemon.kernels()
            kernel.send_signal(signal.SIGKILL)
        else:
            await peer.request(how)
        assert await peer.done(execution_id) == ("error" if how == "death" else "interrupted")
        assert await peer.done(queued) == ("done" if how == "interrupt" else "cancelled")
        await peer.settle()
        assert peer.read("kernel", "input_request") is None
        late = await peer.refusal("input_reply", request_id=request_id, value="too late")
        assert late.reason == "no_input_pending"
        # A prompt of the next kernel is another one.
        cell_id = peer.add_cell(ASKS)
        execution_id = await peer.execute(cell_id)
        assert (await prompt(peer)) != request_id
        assert (await peer.refusal("input_reply", request_id=request_id, value="old")).reason == "no_input_pending"
        await peer.request("input_reply", request_id=await prompt(peer), value="new")
        assert await peer.done(execution_id) == "done"
        assert await text(peer, cell_id) == "hello new\n"
