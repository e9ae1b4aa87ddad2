"""Everything that comes from outside, damaged: a short run of each target in CI, 10^6 inputs in `make soak`.

Each input gets 1 s of CPU, each process 1 GiB of address space, and whatever is raised is a finding.
"""

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import trio

from tests.fuzz.runs import joined, run_slice
from tests.fuzz.target import Finding, Report, Target, fuzz
from tests.fuzz.targets import TARGETS

SOAK_INPUTS = 1_000_000
SLICE = 10_000
# What each takes in 3 to 5 s; with these the processes take half a minute in all.
SHORT_INPUTS = {
    "changes": 3_000,
    "frames": 15_000,
    "heads": 15_000,
    "kernel": 2_000,
    "notebooks": 3_000,
    "requests": 15_000,
    "sync": 6_000,
}


def test_every_target_has_a_short_run() -> None:
    assert SHORT_INPUTS.keys() == TARGETS.keys()


@pytest.mark.parametrize("target", sorted(TARGETS))
async def test_a_short_run_does_no_harm(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = await run_slice(target, seed=1, first=0, inputs=SHORT_INPUTS[target], directory=tmp_path)
    with capsys.disabled():
        print(f"\nFuzzing: {report}", file=sys.stderr)
    assert report.inputs == SHORT_INPUTS[target]
    assert len(report.outcomes) > 1, "inputs that all end alike reach nothing"


async def _run(target: str, slices: Sequence[range], limiter: trio.CapacityLimiter, directory: Path) -> Report:
    reports: list[Report] = []

    async def run_one(indexes: range) -> None:
        async with limiter:
            reports.append(await run_slice(target, 2, indexes.start, len(indexes), directory))

    async with trio.open_nursery() as nursery:
        for indexes in slices:
            nursery.start_soon(run_one, indexes)
    return joined(reports)


@pytest.mark.soak
async def test_a_million_inputs_do_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many over all targets, in as many processes at once as there are processors."""
    each = math.ceil(SOAK_INPUTS / len(TARGETS))
    slices = [range(first, min(first + SLICE, each)) for first in range(0, each, SLICE)]
    limiter = trio.CapacityLimiter(os.cpu_count() or 1)
    total = 0
    for target in sorted(TARGETS):
        report = await _run(target, slices, limiter, tmp_path)
        total += report.inputs
        with capsys.disabled():
            print(f"\nFuzzing: {report}", flush=True, file=sys.stderr)
    assert total >= SOAK_INPUTS


async def test_what_is_raised_is_a_finding_that_says_how_to_do_it_again() -> None:
    async def feed(value: int) -> str:
        if value == 3:
            raise ValueError("harm")
        return "taken"

    noted: list[int] = []
    numbers = iter(range(10))

    def make(rng: Random) -> int:
        del rng
        return next(numbers)

    with pytest.raises(Finding, match=r"(?s)python -m tests\.fuzz numbers --seed 7 --first 3 --inputs 1.*harm"):
        await fuzz(Target("numbers", make, feed), 7, range(10), noted.append)
    assert noted == [0, 1, 2, 3]


async def test_an_input_that_takes_too_long_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    async def feed(value: int) -> str:
        sum(range(value))
        return "taken"

    monkeypatch.setattr("tests.fuzz.target.MAX_INPUT_SECONDS", 0.0)
    with pytest.raises(Finding, match="s of CPU"):
        await fuzz(Target("numbers", lambda _: 100_000, feed), 1, range(1), lambda _: None)
