import json
import subprocess
import sys

import pytest

SCRIPT = """
import structlog, sys
from daemon.logs import configure_logging
configure_logging(sys.argv[1], "info")
structlog.contextvars.bind_contextvars(room="a room")
log = structlog.get_logger("x")
log.debug("too quiet")
log.warning("left", peer="evil\\x1b[2J\\r\\n2026 [error] forged\\u2028")
try:
    raise ValueError("why")
except ValueError:
    log.exception("failed")
"""


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_peer_can_forge_no_line_and_command_no_terminal(log_format: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, log_format], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert "\x1b" not in done.stderr
    assert "2028" in lines[0]
    assert "forged" in lines[0]
    assert "a room" in lines[0]
    assert "too quiet" not in done.stderr
    assert "why" in done.stderr
    if log_format == "json":
        first, second = map(json.loads, lines)
        assert first["room"] == second["room"] == "a room"
        assert "Traceback" in second["exception"]
