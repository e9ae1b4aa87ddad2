"""The state directory: one daemon at a time, its secrets its owner's, and what a killed one leaves behind."""

import json
import stat
from pathlib import Path

import pytest

from daemon.state_dir import DAEMON_FILE, StateDirTaken, open_state_dir, read_announcement


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
