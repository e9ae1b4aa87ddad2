"""The process: opens everything in order, and closes it in a wave.

    run_daemon
      rooms nursery           `Rooms`: run_room x N
        connections nursery   the front: one task per TCP connection, serve_connection x M

Shutdown is a wave with a deadline behind it: stop listening -> rooms save -> end their kernels and commit the last state ->
connections write it -> connections end -> rooms end.
"""

import gc
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import anyio.lowlevel
import structlog
import trio

from daemon.config import Config
from daemon.core.access import Access, AccessPolicy
from daemon.descriptors import raise_limit
from daemon.front import open_front_listeners, serve_front
from daemon.http_app import build_app
from daemon.hub import Hub
from daemon.rooms import DRAIN_SECONDS, SAVE_SECONDS
from daemon.state_dir import StateDir
from sync.blobs import BlobStore
from sync.core.identifiers import PeerId, SessionId
from sync.serving import serve_connection
from sync.websocket import PeerSocket

log = structlog.get_logger(__name__)

# SIGTERM to exit: what service supervisors and people wait without a second thought; and before it what saving takes.
SHUTDOWN_SECONDS = SAVE_SECONDS + 5.0


async def run_daemon(config: Config, state: StateDir, announce: Callable[[dict[str, Any]], None]) -> None:
    """Serves until SIGTERM, SIGINT or SIGHUP, which from then on are ignored for as long as the process lives.

    Args:
        announce: called once with {url, sync_url, token, pid, ...} when everything can be reached.

    Raises:
        OSError: the port can't be had.
    """
    ending = _hear_the_end()
    raise_limit()
    token = config.token or state.kept_token
    # Paths of ipc sockets must fit into 107 bytes, so the state directory may be too deep for them.
    runtime_dir = Path(tempfile.mkdtemp(prefix="notebookd-"))
    try:
        listeners = await open_front_listeners(config.host, config.port)
        port: int = listeners[0].socket.getsockname()[1]
        policy = AccessPolicy(
            port=port,
            token=token,
            viewer_token=config.viewer_token,
            host_names=(config.host, *config.allow_hosts),
            allow_origins=frozenset(config.allow_origins),
        )
        blobs = BlobStore(state.blobs)
        hub = Hub(config, peer_id=PeerId(state.peer_id), blobs=blobs, runtime_dir=runtime_dir)
        async with trio.open_nursery() as rooms:
            await rooms.start(hub.run)
            async with trio.open_nursery() as connections:
                await connections.start(_listen, listeners, policy, hub)
                url = f"http://{_url_host(config.host)}:{port}"
                await _settle()
                with hub.loop_watch.watching():  # from here on somebody may be waiting
                    announce(
                        {
                            "url": url,
                            "sync_url": f"ws{url.removeprefix('http')}/sync",
                            "token": token,
                            "pid": os.getpid(),
                        }
                    )
                    log.info("listening", url=url, root=str(config.root))
                    await ending.wait()
                    with trio.move_on_after(SHUTDOWN_SECONDS) as wave:
                        for listener in listeners:
                            await listener.aclose()
                        await hub.close_all(save=True)
                        await hub.end_connections(DRAIN_SECONDS)
                    if wave.cancelled_caught:
                        log.warning("the shutdown took too long; what was left is cut")
                connections.cancel_scope.cancel()
            rooms.cancel_scope.cancel()
    finally:
        shutil.rmtree(runtime_dir, ignore_errors=True)
    log.info("ended")


def _hear_the_end() -> trio.Event:
    """Set by the first signal that ends a daemon. What is ignored already (SIGHUP under nohup) stays so, but for Ctrl-C.

    Trio's receiver gives signals back to their old handlers when it closes, and those die of them. The end is not over then:
    rooms are saved, but `daemon.json` is still there, and the interpreter takes a while to end.
    """
    ending, token = trio.Event(), trio.lowlevel.current_trio_token()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    def end(number: int) -> None:
        log.info("shutting down", signal=signal.Signals(number).name)
        ending.set()

    def hear(number: int, frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)  # no kernel is started any more that would inherit it
        with suppress(trio.RunFinishedError):  # it could not serve, and is ending
            token.run_sync_soon(end, number)

    for number in numbers:
        signal.signal(number, hear)
    return ending


async def _settle() -> None:
    """Does what would otherwise hold up the loop when peers are there."""
    # What serves files imports its half for Trio at its first use: 15 to 70 ms (measured).
    await anyio.lowlevel.checkpoint()
    # Modules and all that they made stay for ever: a full collection that looks at them takes 55 ms (measured).
    gc.collect()
    gc.freeze()
    # Tells the collector how few are left: it comes when a quarter of what survived the last full collection is new.
    gc.collect()


async def _listen(
    listeners: list[trio.SocketListener], policy: AccessPolicy, hub: Hub, task_status: trio.TaskStatus[None]
) -> None:
    async def serve_sync(socket: PeerSocket, access: Access) -> None:
        # Random per connection: a client keeps the last `count` of a (sender, session) for as long as it lives.
        session_id = SessionId(secrets.token_hex(16))
        await serve_connection(socket, hub, role=access.role, session_id=session_id)

    await serve_front(listeners, policy=policy, app=build_app(hub), serve_sync=serve_sync, task_status=task_status)


def _url_host(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # all of one family: IPv6 is not IPv4 as well
    return f"[{host}]" if ":" in host else host
