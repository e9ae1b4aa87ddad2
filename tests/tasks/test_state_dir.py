"""The state directory: one daemon at a time, its secrets its owner's, and what a killed one leaves behind."""

import json
import re
import stat
from pathlib import Path

import pytest
import trio.testing

from daemon.state_dir import (
    DAEMON_FILE,
    StateDirTaken,
    StateDirUnusable,
    open_state_dir,
    read_announcement,
    wait_until_free,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_second_daemon_is_refused_and_the_first_stays_announced(tmp_path: Path) -> None:
    with open_state_dir(tmp_path) as state:
        state.announce({"pid": 1})
        with pytest.raises(StateDirTaken), open_state_dir(tmp_path):
            pass
        assert read_announcement(tmp_path) == {"pid": 1}
    assert read_announcement(tmp_path) is None
    assert not (tmp_path / DAEMON_FILE).exists()


def test_what_a_killed_daemon_left_is_no_daemon(tmp_path: Path) -> None:
    with open_state_dir(tmp_path):
        pass
    (tmp_path / DAEMON_FILE).write_text(json.dumps({"pid": 1}))

    assert read_announcement(tmp_path) is None, "its process id may be another's by now"


def test_secrets_are_the_owners_alone_whatever_stood_there(tmp_path: Path) -> None:
    leftover = tmp_path / "daemon.tmp"
    leftover.write_text("half")
    leftover.chmod(0o644)
    with open_state_dir(tmp_path) as state:
        state.announce({"token": "secret"})
        assert mode(tmp_path / DAEMON_FILE) == mode(tmp_path / "token") == 0o600


def test_peer_id_and_token_are_kept(tmp_path: Path) -> None:
    with open_state_dir(tmp_path) as first:
        kept = first.peer_id, first.kept_token
    with open_state_dir(tmp_path) as second:
        assert (second.peer_id, second.kept_token) == kept
    assert re.fullmatch("[0-9a-f]{64}", kept[1]), "a command line takes what begins with - for an option"


def test_a_folder_that_cannot_be_made_or_read_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "odd" / "token").mkdir(parents=True)
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "odd"):
        with pytest.raises(StateDirUnusable), open_state_dir(path):
            pass
    with open_state_dir(tmp_path / "odd" / "free"), pytest.raises(OSError, match="mine"):
        raise OSError("mine")


async def test_it_is_free_when_the_daemon_has_given_up_all_and_no_earlier(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        with open_state_dir(tmp_path) as state:
            state.announce({"pid": 1})
            assert not await wait_until_free(tmp_path, 0.01)
            nursery.start_soon(wait_until_free, tmp_path, 60)
            await trio.testing.wait_all_tasks_blocked()
            (tmp_path / DAEMON_FILE).unlink()  # it does not count
    with open_state_dir(tmp_path):
        pass
