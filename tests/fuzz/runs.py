"""Runs of a target in processes of their own, so that an input that kills or hangs one is a finding, with its index."""

import json
import sys
from collections import Counter
from pathlib import Path

import trio

from tests.fuzz.target import Report

ROOT = Path(__file__).parents[2]
# An input may take 1 s of CPU, which the process checks itself; this is for one that never comes back. By inputs, since a
# run that is merely slow, on a busy machine, is no finding.
SECONDS_TO_START = 120
SECONDS_AN_INPUT = 0.1


async def run_slice(target: str, seed: int, first: int, inputs: int, directory: Path) -> Report:
    """Feeds a part of a run to a target in a fresh process; `directory` is for its notes.

    Raises:
        AssertionError: an input did harm; how to do it again is in the message.
    """
    note = directory / f"{target}-{seed}-{first}"
    command = [sys.executable, "-m", "tests.fuzz", target]
    command += ["--seed", str(seed), "--first", str(first), "--inputs", str(inputs), "--note", str(note)]
    done = None
    with trio.move_on_after(SECONDS_TO_START + inputs * SECONDS_AN_INPUT):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, cwd=ROOT)
    index = int.from_bytes(note.read_bytes(), "little") if note.exists() else first
    again = f"python -m tests.fuzz {target} --seed {seed} --first {index} --inputs 1"
    assert done is not None, f"an input never came back: {again}"
    said = done.stderr.decode(errors="replace")[-20_000:]
    assert done.returncode >= 0, f"the process died of signal {-done.returncode}: {again}\n{said}"
    assert done.returncode == 0, said
    figures = json.loads(done.stdout.splitlines()[-1])
    return Report(**{**figures, "outcomes": Counter(figures["outcomes"])})


def joined(reports: list[Report]) -> Report:
    """One report of several parts of a run; the seconds of all are added up."""
    slowest = max(reports, key=lambda report: report.slowest_seconds)
    return Report(
        reports[0].target,
        inputs=sum(report.inputs for report in reports),
        outcomes=sum((report.outcomes for report in reports), Counter()),
        seconds=sum(report.seconds for report in reports),
        slowest_seconds=slowest.slowest_seconds,
        slowest_index=slowest.slowest_index,
        peak_bytes=max(report.peak_bytes for report in reports),
    )
