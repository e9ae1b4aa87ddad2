"""Twenty peers edit and execute over connections that break at every place; a checker reads what they and the kernel saw."""

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.notebooks import write_notebook
from tests.fakes.daemon_process import running_daemon
from tests.fakes.weather import FRAMES, RAN_LOG, RUN, Actor, Crowd, Plan, Skies, client, stock, thin
from tests.history import violations

# Of the stock client's connections and of ours, in both directions.
BOUNDARIES = 4 * FRAMES
CELLS = ["a", "b", "c", "d", "e"]
SHORT_SECONDS = 40.0
LONG_SECONDS = 150.0


async def live_through(directory: Path, seed: int, seconds: float, *, to_the_end: bool) -> str:
    """One run; what it met, as a line. `to_the_end`: each boundary must have been met; else it is over when all were."""
    rng = random.Random(seed)
    clients, stocks = Skies.of_frames(rng), Skies.of_frames(rng)
    actors: list[tuple[Actor, Plan]] = [
        *[(client, clients.next_cut)] * 8,
        *[(stock, stocks.next_cut)] * 4,
        *[(thin, clients.sluggish)] * 5,
        *[(thin, clients.any_byte)] * 2,
    ]
    async with running_daemon(directory) as daemon:
        (daemon.root / "ran_log.py").write_text(RAN_LOG)
        write_notebook(daemon.root / "crowd.ipynb", dict.fromkeys(CELLS, RUN))
        crowd = Crowd(daemon, await daemon.open("crowd.ipynb"), CELLS, rng)

        def met() -> set[tuple[str, str, int]]:
            return {
                (history.name.rstrip("0123456789"), fault.direction, fault.cut_after_frames)
                for history, wire in crowd.actors
                for fault in wire.faults_met
                if fault.cut_after_frames is not None
            }

        await crowd.run(actors, lambda: not to_the_end and len(met()) == BOUNDARIES, seconds)
        ran = crowd.ran()
        found = violations(crowd.histories, ran, crowd.commits, witness="witness")
        assert not found, "\n".join(found[:20])
        faults = [fault for _, wire in crowd.actors for fault in wire.faults_met]
        kinds = Counter(
            "stalls" if f.stall_seconds else "byte cuts" if f.cut_after_frames is None else "boundary cuts"
            for f in faults
        )
        assert len(kinds) == 3, kinds
        assert not to_the_end or len(met()) == BOUNDARIES, f"met only {sorted(met())}"
        accepted = sum(asked.accepted for history in crowd.histories for asked in history.asked)
        lost = sum(asked.answer == "lost" for history in crowd.histories for asked in history.asked)
        edits = sum(len(history.acknowledged) for history in crowd.histories)
        events = sum(len(connection) for history in crowd.histories for connection in history.connections)
        connections = sum(wire.connections for _, wire in crowd.actors)
        return (
            f"seed {seed}: {len(crowd.histories)} peers, {dict(kinds)}, {len(met())} of {BOUNDARIES} boundaries, "
            f"{connections} connections; "
            f"{accepted} executions accepted, {lost} requests lost, {len(ran.runs)} ran, {edits} edits acknowledged, "
            f"{events} events, {len(crowd.commits)} commits; no violation"
        )


@pytest.mark.time_limit(180)
async def test_nothing_breaks_where_connections_do(tmp_path: Path) -> None:
    print(await live_through(tmp_path, seed=1, seconds=SHORT_SECONDS, to_the_end=False))


@pytest.mark.soak
@pytest.mark.time_limit(3600)
@pytest.mark.parametrize("seed", [2, 3, 4])
async def test_nothing_breaks_in_a_long_storm(tmp_path: Path, seed: int) -> None:
    print(await live_through(tmp_path, seed=seed, seconds=LONG_SECONDS, to_the_end=True))
