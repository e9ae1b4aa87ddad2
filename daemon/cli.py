"""The command line: options into a `Config`, failures into exit codes, logging set up here and nowhere else."""

import json
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import cyclopts
import trio
from cyclopts import App, Group, Parameter

from daemon.config import Config, default_state_dir
from daemon.state_dir import StateDirTaken, open_state_dir, read_announcement

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_KERNEL = 3
EXIT_NO_DAEMON = 4
EXIT_TAKEN = 4

_options = Group("Options", default_parameter=Parameter(negative=()))
app = App(
    name="notebookd",
    help="A daemon that owns Jupyter kernels and live notebook documents.",
    version=version("notebookd"),
    version_flags=["--version"],
    result_action="return_value",
    group_parameters=_options,
)


class Failure(Exception):
    """A command failed in a way that its user can mend: one line on stderr and an exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def main() -> NoReturn:
    """Runs one command and exits as docs/wire.md says."""
    try:
        code = app(exit_on_error=False, print_error=True)
    except cyclopts.CycloptsError:
        sys.exit(EXIT_USAGE)
    except Failure as failure:
        print(f"notebookd: {failure}", file=sys.stderr)
        sys.exit(failure.code)
    except BrokenPipeError:
        # Whoever read our output has gone: nothing is left to say, not even at the interpreter's exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    sys.exit(code if isinstance(code, int) else 0)


@app.command
def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8889,
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
    """Serve until SIGTERM or Ctrl-C.

    The first line on stdout is JSON: url, sync_url, token, pid. The log goes to stderr.

    Parameters
    ----------
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
        state_dir=(state_dir or default_state_dir()).expanduser().resolve(),
        root=root,
        allow_hosts=allow_host,
        allow_origins=allow_origin,
        log_format=log_format,
    )
    try:
        with open_state_dir(config.state_dir) as state:

            def announce(info: dict[str, Any]) -> None:
                state.announce(info)
                print(json.dumps(info), flush=True)

            trio.run(run_daemon, config, state, announce)
    except StateDirTaken as taken:
        raise Failure(EXIT_TAKEN, f"{taken}; stop it with `notebookd stop`, or use another --state-dir") from taken
    except BlobStoreError as error:
        raise Failure(EXIT_FAILED, f"the state directory can't be used: {error}") from error
    except OSError as error:
        raise Failure(EXIT_USAGE, f"can't serve on {host} port {port}: {error.strerror or error}") from error
    return 0


@app.command
def run(
    path: Path,
    *,
    url: str | None = None,
    token: str | None = None,
    state_dir: Path | None = None,
    no_save: bool = False,
    output: Path | None = None,
    timeout: float | None = None,
) -> int:
    """Run all cells of a notebook in the daemon, and show what happens as it happens.

    Exits with 0 if all went well, 1 if a cell failed or took too long, 3 if there is no kernel.

    Parameters
    ----------
    path: The notebook.
    url: The daemon, if it is not the one of this state directory.
    token: Its token.
    state_dir: Where to look for the daemon.
    no_save: Leave the file as it is.
    output: Write the notebook with its outputs here.
    timeout: Seconds that each cell may take.
    """
    from daemon.commands import run_notebook

    found = _daemon(url, token, state_dir)
    return trio.run(lambda: run_notebook(*found, path.resolve(), save=not no_save, output=output, timeout=timeout))


@app.command
def watch(path: Path, *, url: str | None = None, token: str | None = None, state_dir: Path | None = None) -> int:
    """Follow what happens in a notebook until Ctrl-C.

    Parameters
    ----------
    path: The notebook.
    url: The daemon, if it is not the one of this state directory.
    token: Its token.
    state_dir: Where to look for the daemon.
    """
    from daemon.commands import watch_notebook

    found = _daemon(url, token, state_dir)
    return trio.run(lambda: watch_notebook(*found, path.resolve()))


@app.command
def status(
    *,
    url: str | None = None,
    token: str | None = None,
    state_dir: Path | None = None,
    as_json: Annotated[bool, Parameter("--json")] = False,
) -> int:
    """Show the daemon and its notebooks.

    Parameters
    ----------
    url: The daemon, if it is not the one of this state directory.
    token: Its token.
    state_dir: Where to look for the daemon.
    as_json: Print JSON.
    """
    from daemon.commands import show_status

    return trio.run(lambda: show_status(*_daemon(url, token, state_dir), as_json=as_json))


@app.command
def stop(*, state_dir: Path | None = None) -> int:
    """Stop the daemon of this state directory; it saves what changed and ends its kernels.

    Parameters
    ----------
    state_dir: Where to look for the daemon.
    """
    from daemon.commands import wait_until_gone

    info = _announced(state_dir)
    try:
        os.kill(info["pid"], signal.SIGTERM)
    except ProcessLookupError:
        raise Failure(EXIT_NO_DAEMON, _NO_DAEMON) from None
    if not trio.run(wait_until_gone, (state_dir or default_state_dir()).expanduser()):
        raise Failure(EXIT_FAILED, f"process {info['pid']} does not end; its log says why")
    return 0


_NO_DAEMON = "no daemon is running here; start one with `notebookd serve`"


def _daemon(url: str | None, token: str | None, state_dir: Path | None) -> tuple[str, str]:
    if url is not None:
        if token is None:
            raise Failure(EXIT_USAGE, "--url needs --token")
        return url, token
    info = _announced(state_dir)
    return info["url"], token or info["token"]


def _announced(state_dir: Path | None) -> dict[str, Any]:
    info = read_announcement((state_dir or default_state_dir()).expanduser())
    if info is None:
        raise Failure(EXIT_NO_DAEMON, _NO_DAEMON)
    return info


def _secret(value: str | None, file: Path | None, name: str) -> str | None:
    if value is not None and file is not None:
        raise Failure(EXIT_USAGE, f"--{name} and --{name}-file exclude each other")
    if file is not None:
        try:
            value = file.expanduser().read_text().strip()
        except OSError as error:
            raise Failure(EXIT_USAGE, f"--{name}-file {file}: {error.strerror}") from error
    if value is not None and not value:
        raise Failure(EXIT_USAGE, f"--{name} must not be empty")
    return value
