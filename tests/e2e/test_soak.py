"""The long soak as a test, under `make soak`: see tests/soak."""

import os
from pathlib import Path

import pytest

from tests.soak.run import describe, soak

SECONDS = float(os.environ.get("NOTEBOOKD_SOAK_SECONDS", "3600"))


@pytest.mark.soak
@pytest.mark.time_limit(SECONDS + 300)
async def test_twenty_peers_leave_nothing_behind() -> None:
    """An hour of joins, departures, restarts, executions, widgets, edits, notebooks closed and opened again."""
    folder = Path(__file__).parents[2] / "build"
    folder.mkdir(exist_ok=True)
    result = await soak(SECONDS, 1, folder)
    print()
    for name, value in describe(result).items():
        print(f"{name}: {value}")
    assert not result.faults, result.faults
