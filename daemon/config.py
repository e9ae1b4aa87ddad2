"""What the daemon is told once, at its start."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs


@dataclass(frozen=True, slots=True)
class Config:
    """Checked by the command line, read once, passed down.

    `token` None: the one kept in the state directory, or a random one. `port` 0: any free one.
    """

    host: str
    port: int
    token: str | None
    viewer_token: str | None
    state_dir: Path
    root: Path
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    log_format: Literal["text", "json"] = "text"


def default_state_dir() -> Path:
    """Where the state is kept unless somebody says otherwise; `daemon.json` in it tells other commands where we are."""
    return platformdirs.user_state_path("notebookd")
