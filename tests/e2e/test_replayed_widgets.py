"""Recorded traces of real ipywidgets, played to a real room without a kernel, as stock peers in Node see it.

What a trace must end in, tests/core/test_widget_traces.py says; here is that peers have the same by the document alone.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest

from kernel_bridge.core.trace import TraceEntry
from tests.core.test_widget_traces import Replay, played
from tests.fakes.replaying_daemon import replaying_daemon
from tests.fakes.trace_player import trace_of
from tests.fakes.widget_scenarios import SCENARIOS
from tests.fakes.widget_story import Watcher, watching


async def assert_same(peer: Watcher, replay: Replay) -> None:
    """A peer has what the trace ends in: comms with their state and captured outputs, and what cells show."""
    seen = (await peer.seen()).comms
    assert seen == replay.document.comms()
    for cell_id in replay.document.plain["cells"]:
        assert await peer.cell(cell_id) == replay.document.shown("cell", cell_id)


async def wait_for_corrections(peer: Watcher, replay: Replay) -> None:
    """What the kernel made of values that peers set is shown when they pause, which takes its time here."""
    for comm_id, comm in replay.document.comms().items():
        if comm["model_name"] in ("IntSliderModel", "AnyModel"):
            for trait, value in comm["state"].items():
                if isinstance(value, int):
                    await peer.peer.wait_value(peer.runtime, ["comms", comm_id, "state", trait], value)


def is_part(series: Iterable[Any], whole: Sequence[Any]) -> bool:
    """Whether all of a series occurs in another one, in its order."""
    rest = iter(whole)
    return all(item in rest for item in series)


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_peer_that_was_there_and_one_that_joins_late_have_the_same_without_a_handshake(scenario: str) -> None:
    replay = played(scenario)
    async with replaying_daemon() as daemon:
        opened, player = await daemon.open_for_replay()
        async with watching(daemon, opened) as early:
            await player.play(trace_of(scenario))
            player.assert_all_sent()
            await early.ask("barrier")
            async with watching(daemon, opened) as late:
                for peer in (early, late):
                    await wait_for_corrections(peer, replay)
                    await assert_same(peer, replay)
                report = await late.peer.report(late.notebook)
                assert (report["early"], report["events"]) == (0, 0)  # it was told nothing, but the document
            assert (await early.peer.report(early.notebook))["early"] == 0


async def test_no_peer_sees_anything_between_a_clear_and_its_output() -> None:
    """Whatever a peer saw of what an Output widget shows was a state after a commit, and those are in the trace's order."""
    replay = played("output")
    [out] = [comm_id for comm_id, comm in replay.document.comms().items() if comm["model_name"] == "OutputModel"]
    short = "o => o.text ? o.text.map(String).join('') : String(o.ename ?? o.data['text/plain'])"
    async with replaying_daemon() as daemon:
        opened, player = await daemon.open_for_replay()
        async with watching(daemon, opened) as peer:
            await peer.peer.watch(peer.runtime, "seen", f"doc.comms['{out}'].outputs.map({short})")
            await player.play(trace_of("output"))
            await peer.ask("barrier")
            seen = await peer.peer.watched("seen")

    def told(output: Any) -> str:
        return output if isinstance(output, str) else output[-1]

    states = [None, *([told(output) for output in state.get(out, [])] for state in replay.states if out in state)]
    assert is_part(seen, states)
    assert len(seen) > 5
    fresh = seen.index(["fresh\n"])
    assert seen[fresh - 1] == ["one\ntwo\n", "'v2'", "ZeroDivisionError"]


async def test_a_peer_whose_events_were_dropped_has_the_widgets_by_the_document() -> None:
    """It is stopped while a button sends more custom messages than anybody keeps for it; then it goes on."""
    replay = played("button")
    trace = trace_of("button")
    [said] = [entry for entry in trace if _is_custom(entry)]
    content = {**said.content, "data": {"method": "custom", "content": "x" * 20_000}}
    flood = [msgspec.structs.replace(said, content=content)] * 2000
    at = trace.index(said)
    async with replaying_daemon() as daemon:
        opened, player = await daemon.open_for_replay()
        async with watching(daemon, opened) as driver, watching(daemon, opened) as sleeper:
            await player.play(trace[: at // 2])
            sleeper.peer.process.stop()
            await player.play([*trace[at // 2 : at], *flood, *trace[at:]])
            await driver.ask("barrier")
            sleeper.peer.process.go_on()
            await sleeper.ask("barrier")  # behind all that it was to hear

            await assert_same(sleeper, replay)
            report = await sleeper.peer.report(sleeper.notebook)
            assert report["gaps"] > 0
            assert report["early"] == 0
            print(f"\n{report['gaps']} events were dropped for a peer that was stopped; it has every widget")


def _is_custom(entry: TraceEntry) -> bool:
    if entry.direction != "received" or entry.header.msg_type != "comm_msg":
        return False
    method: str = entry.content["data"].get("method")
    return method == "custom"
