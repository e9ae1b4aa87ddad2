"""A bug in one request, room, kernel or connection stays there: others go on beside it, and what failed can come back."""

import json
from pathlib import Path

import pytest
import trio

from tests.e2e.notebooks import Notebook, open_notebook
from tests.fakes.daemon_process import DaemonProcess, running_daemon
from tests.fakes.thin_peer import ConnectionEnded, RequestFailed, ThinPeer, open_thin_peer


class Urls:
    """A notebook's documents."""

    def __init__(self, notebook: Notebook) -> None:
        self.notebook, self.runtime = notebook.url, notebook.runtime


async def work(peer: ThinPeer, stop: trio.Event, ran: list[str], task_status: trio.TaskStatus[None]) -> None:
    """A peer of another notebook, which edits and executes all the while."""
    number = 0
    while not stop.is_set():
        number += 1
        outputs = await peer.show(f"print({number})", "a")
        ran.append(outputs[0]["text"])
        if number == 1:
            task_status.started()


def logged(daemon: DaemonProcess) -> list[tuple[str, str | None]]:
    """The errors in the log: what, and of which room."""
    records = [json.loads(line) for line in daemon.stderr.decode().splitlines()]
    return [(record["event"], record.get("room")) for record in records if record["level"] in ("error", "critical")]


KEPT = "not saved at the end; what it was is in a copy"


@pytest.mark.parametrize(
    ("fault", "event"),
    [
        ("request", "request failed"),
        ("writer", "room failed"),
        ("task", "room failed"),
        ("kernel", "a kernel's message could not be taken"),
        ("connection", "connection failed"),
    ],
)
async def test_a_bug_stays_where_it_is(tmp_path: Path, fault: str, event: str) -> None:
    options = ("--log-format", "json")
    async with running_daemon(tmp_path, *options, module="tests.fakes.failing_daemon") as daemon:
        failing = await open_notebook(daemon, {"a": "print('here')"}, "failing.ipynb")
        other = await open_notebook(daemon, {"a": ""}, "other.ipynb")
        failed_id = failing.id
        stop, ran = trio.Event(), list[str]()
        async with open_thin_peer(daemon, Urls(other)) as working, trio.open_nursery() as nursery:
            await nursery.start(work, working, stop, ran)

            async with open_thin_peer(daemon, Urls(failing)) as witness:
                assert await witness.run("a") == "done"
                await _break(daemon, failing, fault, witness)

            # It can be had again, and does all that it did.
            failing = await _opened_again(daemon, failing, fault)
            async with open_thin_peer(daemon, Urls(failing)) as again:
                assert await again.run("a") == "done"

            runs = len(ran)
            await working.wait(lambda: len(ran) > runs)
            stop.set()
        assert ran == [f"{number}\n" for number in range(1, len(ran) + 1)]
        assert [heard.params["seq"] for heard in working.events] == list(range(1, len(working.events) + 1))
        assert not working.errors
        errors = logged(daemon)
        assert {what for what, _ in errors} == ({event, KEPT} if event == "room failed" else {event})
        assert other.id not in {room for _, room in errors}
        if fault != "connection":  # which has no room
            assert {room for _, room in errors} == {failed_id}


async def _break(daemon: DaemonProcess, failing: Notebook, fault: str, witness: ThinPeer) -> None:
    """Sets off the fault by one peer, while `witness` is another of the same notebook."""
    code = f"fail: {fault}"
    match fault:
        case "request":
            async with open_thin_peer(daemon, Urls(failing)) as peer:
                assert (await peer.refusal("inspect", code=code)).reason == "internal"
                assert await peer.run("a") == "done"
            assert await witness.run("a") == "done"
        case "connection":
            with pytest.raises(ConnectionEnded):
                async with open_thin_peer(daemon, Urls(failing)) as peer:
                    await peer.request("inspect", code=code)
                    peer.ask("barrier")
                    await peer.wait(lambda: False)
            assert await witness.run("a") == "done"
        case "kernel":
            async with open_thin_peer(daemon, Urls(failing)) as peer:
                await peer.request("inspect", code=code)
                # What it was about is over: its start had not been heard.
                assert await peer.run("a") == "error"
                assert "failed on a message" in (await witness.event("kernel_error")).params["message"]
        case _:
            asked = witness.ask("inspect", code=code)
            # Its room is over: this one and all later requests are told so, and nobody waits for ever.
            with trio.move_on_after(30):
                await asked.arrived.wait()
            with pytest.raises(RequestFailed, match=r"shutting_down|not_found"):
                while True:
                    await witness.request("barrier")
            assert not witness.ended.is_set()


async def _opened_again(daemon: DaemonProcess, failing: Notebook, fault: str) -> Notebook:
    if fault == "kernel":  # the bug is in this room's memory
        await daemon.delete(f"/api/notebooks/{failing.id}")
    opened = await daemon.open("failing.ipynb")
    assert (opened["id"] == failing.id) == (fault in ("request", "connection"))
    return Notebook(daemon, opened["id"], opened["notebook"], opened["runtime"])
