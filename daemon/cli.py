"""The command line: options into a `Config`, failures into exit codes, logging set up here and nowhere else."""

import json
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import cyclopts
import trio
from cyclopts import App, Parameter
from cyclopts.validators import Number

from daemon.config import Config, default_state_dir
from daemon.signals import run_until_ctrl_c
from daemon.state_dir import StateDirTaken, StateDirUnusable, open_state_dir, read_announcement, wait_until_free
from daemon.streams import StdoutLost, complain, guard_stdout

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_KERNEL = 3
EXIT_NO_DAEMON = 4
EXIT_TAKEN = 4
EXIT_INTERRUPTED = 128 + signal.SIGINT  # as shells say it

# A daemon ends within 5 s of its SIGTERM; this is for its machine being busy.
STOP_SECONDS = 15

app = App(
    name="notebookd",
    help="A daemon that owns Jupyter kernels and live notebook documents.",
    version=version("notebookd"),
    version_flags=["--version"],
    result_action="return_value",
    default_parameter=Parameter(negative=()),
)


class Failure(Exception):
    """A command failed in a way that its user can mend: one line on stderr and an exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def main() -> NoReturn:
    """Runs one command and exits as docs/operations.md says."""
    guard_stdout()
    try:
        code = app(exit_on_error=False, print_error=True)
        sys.stdout.flush()
    except cyclopts.CycloptsError:
        sys.exit(EXIT_USAGE)
    except Failure as failure:
        complain(str(failure))
        sys.exit(failure.code)
    except StdoutLost as lost:
        if not lost.is_unread:
            complain(str(lost))
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


@app.command
def serve(
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 8889,
    token: str | None = None,
    token_file: Path | None = None,
    viewer_token: str | None = None,
    viewer_token_file: Path | None = None,
    allow_host: tuple[str, ...] = (),
    allow_origin: tuple[str, ...] = (),
    state_dir: Path | None = None,
    root: Path = Path(),
    log_format: Literal["text", "json"] = "text",
    log_level: Literal["debug", "info", "warning", "error"] = "info",
) -> int:
    """Serve until SIGTERM, Ctrl-C or the end of the terminal; what changed is saved then.

    The first line on stdout is JSON: url, sync_url, token, pid. The log goes to stderr.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes any free one.
        token: What peers must show to edit; without it a random one is made and kept in the state directory.
        token_file: A file that holds the token.
        viewer_token: What peers must show to read only.
        viewer_token_file: A file that holds the viewer token.
        allow_host: A further name in the Host header that is us.
        allow_origin: A web origin whose pages may connect, exactly as browsers send it.
        state_dir: Where blobs, the token and daemon.json are kept.
        root: The folder that notebooks are opened in.
        log_format: How log lines look.
        log_level: The least that is logged; debug names every request and execution.
    """
    # Here, since half a second of imports is for those alone who serve.
    from daemon.core.access import AccessRulesWrong
    from daemon.logs import configure_logging
    from daemon.supervisor import run_daemon
    from sync.blobs import BlobStoreError

    # A peer can make the core panic in a read, which is caught; a backtrace for each costs 0.7 ms (measured).
    os.environ.setdefault("RUST_BACKTRACE", "0")
    configure_logging(log_format, log_level)
    root = root.expanduser().resolve()
    if not root.is_dir():
        raise Failure(EXIT_USAGE, f"--root {root} is not a directory")
    config = Config(
        host=host,
        port=port,
        token=_secret(token, token_file, "token"),
        viewer_token=_secret(viewer_token, viewer_token_file, "viewer-token"),
        state_dir=_state_dir(state_dir),
        root=root,
        allow_hosts=allow_host,
        allow_origins=allow_origin,
        log_format=log_format,
    )
    try:
        with open_state_dir(config.state_dir) as state:

            def announce(info: dict[str, Any]) -> None:
                state.announce(info)
                with suppress(StdoutLost):  # who wants to know finds it in the state directory
                    print(json.dumps(info), flush=True)

            trio.run(run_daemon, config, state, announce)
    except StateDirTaken as taken:
        raise Failure(EXIT_TAKEN, f"{taken}; stop it with `notebookd stop`, or use another --state-dir") from taken
    except (StateDirUnusable, BlobStoreError) as error:
        raise Failure(EXIT_USAGE, f"the state directory can't be used: {error}") from error
    except AccessRulesWrong as error:
        raise Failure(EXIT_USAGE, str(error)) from error
    except OSError as error:
        raise Failure(EXIT_USAGE, f"can't serve on {host} port {port}: {error.strerror or error}") from error
    return 0


@app.command
def run(
    path: Path,
    /,
    *,
    url: str | None = None,
    token: str | None = None,
    state_dir: Path | None = None,
    no_save: bool = False,
    output: Path | None = None,
    timeout: Annotated[float | None, Parameter(validator=Number(gt=0))] = None,
) -> int:
    """Run all cells of a notebook in the daemon, and show what happens as it happens.

    Exits with 0 if all went well, 1 if a cell failed or took too long, 2 for wrong usage, 3 if there is no kernel, 4 if there
    is no daemon.

    Args:
        path: The notebook: a file here, or one under the daemon's root.
        url: The daemon, if it is not the one of this state directory; `?token=` may be in it.
        token: Its token.
        state_dir: Where to look for the daemon.
        no_save: Leave the file as it is; unless somebody else has the notebook open, it is closed again.
        output: Write the notebook with its outputs here, and leave the file as it is.
        timeout: Seconds that each cell may take.
    """
    from daemon.commands import call, run_notebook

    found = _daemon(url, token, state_dir)
    return call(
        lambda: run_notebook(*found, _named(path), save=not no_save, output=output, timeout=timeout),
        found[0],
        str(path),
    )


@app.command
def watch(path: Path, /, *, url: str | None = None, token: str | None = None, state_dir: Path | None = None) -> int:
    """Follow what happens in a notebook until Ctrl-C.

    Args:
        path: The notebook: a file here, or one under the daemon's root.
        url: The daemon, if it is not the one of this state directory; `?token=` may be in it.
        token: Its token.
        state_dir: Where to look for the daemon.
    """
    from daemon.commands import call, watch_notebook

    found = _daemon(url, token, state_dir)
    return call(lambda: watch_notebook(*found, _named(path)), found[0], str(path))


@app.command
def status(
    *,
    url: str | None = None,
    token: str | None = None,
    state_dir: Path | None = None,
    as_json: Annotated[bool, Parameter("--json")] = False,
) -> int:
    """Show the daemon and its notebooks.

    Args:
        url: The daemon, if it is not the one of this state directory; `?token=` may be in it.
        token: Its token.
        state_dir: Where to look for the daemon.
        as_json: Print JSON.
    """
    from daemon.commands import call, show_status

    found = _daemon(url, token, state_dir)
    return call(lambda: show_status(*found, as_json=as_json), found[0])


@app.command
def stop(*, state_dir: Path | None = None) -> int:
    """Stop the daemon of this state directory; it saves what changed and ends its kernels.

    Args:
        state_dir: Where to look for the daemon.
    """
    info = _announced(state_dir)
    try:
        os.kill(info["pid"], signal.SIGTERM)
    except ProcessLookupError:
        raise Failure(EXIT_NO_DAEMON, _NO_DAEMON) from None
    except PermissionError:
        raise Failure(EXIT_FAILED, f"process {info['pid']} is somebody else's") from None
    if not run_until_ctrl_c(partial(wait_until_free, _state_dir(state_dir), STOP_SECONDS)):
        raise Failure(EXIT_FAILED, f"process {info['pid']} does not end; its log says why")
    return 0


_NO_DAEMON = "no daemon is running here; start one with `notebookd serve`"


def _daemon(url: str | None, token: str | None, state_dir: Path | None) -> tuple[str, str]:
    from sync.client.http import parse_address

    if url is None:
        info = _announced(state_dir)
        url, token = info["url"], token or info["token"]
    try:
        address = parse_address(url, token)
    except ValueError as error:
        raise Failure(EXIT_USAGE, f"--url: {error}") from error
    if address.token is None:
        raise Failure(EXIT_USAGE, "--url needs --token")
    return address.url, _checked(address.token, "token")


def _announced(state_dir: Path | None) -> dict[str, Any]:
    directory = _state_dir(state_dir)
    try:
        info = read_announcement(directory)
    except OSError as error:
        raise Failure(EXIT_FAILED, f"the state directory {directory} can't be read: {error.strerror}") from error
    if info is None:
        raise Failure(EXIT_NO_DAEMON, _NO_DAEMON)
    return info


def _state_dir(named: Path | None) -> Path:
    return (named or default_state_dir()).expanduser().resolve()


def _named(path: Path) -> str:
    """How a daemon is told of a notebook: a file of this folder by its whole path, another as one of the daemon's root."""
    return str(path.resolve()) if path.exists() else str(path)


def _secret(value: str | None, file: Path | None, name: str) -> str | None:
    if value is not None and file is not None:
        raise Failure(EXIT_USAGE, f"--{name} and --{name}-file exclude each other")
    if file is not None:
        try:
            value = file.expanduser().read_text("utf-8").strip()
        except OSError as error:
            raise Failure(EXIT_USAGE, f"--{name}-file {file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise Failure(EXIT_USAGE, f"--{name}-file {file} is no text") from error
    return None if value is None else _checked(value, name)


def _checked(token: str, name: str) -> str:
    """A token that fits into a header, where clients must put it."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise Failure(EXIT_USAGE, f"--{name} must be visible ASCII characters, at least one")
    return token
