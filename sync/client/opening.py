"""How a notebook is opened, and what ends with the block that holds it."""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from sync.client.connection import Connection
from sync.client.errors import ConnectionLost, RequestFailed, SyncTimeout
from sync.client.http import open_http, parse_address
from sync.client.notebook import Notebook
from sync.core.client_session import ClientSession
from sync.core.identifiers import PeerId, parse_automerge_url
from sync.core.jsonrpc import ErrorCode

# The biggest notebooks load in a few seconds; this is for a machine under load.
OPEN_SECONDS = 60
# A daemon that is started again is back within seconds; a train leaves a tunnel in a minute.
RECONNECT_SECONDS = 60


@asynccontextmanager
async def open_notebook(
    url: str,
    *,
    token: str | None = None,
    path: str | os.PathLike[str] | None = None,
    notebook: str | None = None,
    create: bool = False,
    kernel_name: str | None = None,
    wait_loaded: bool = True,
    timeout: float = OPEN_SECONDS,
    reconnect_seconds: float = RECONNECT_SECONDS,
) -> AsyncIterator[Notebook]:
    """Opens a notebook at a daemon and keeps it in step until the block is left.

    When the block starts, both documents are here as the daemon had them. At its end what was edited is sent;
    `confirm_sync` is for whoever must know that it arrived. Errors of the block come out as they are, not in a group.

    Args:
        url: the daemon's, `http://host:port`.
        token: its token, or a viewer's.
        path: a notebook file, relative to the daemon's root. Either this or `notebook`, which viewers need.
        notebook: the Automerge URL of a notebook that the daemon has open.
        create: makes the file if there is none.
        kernel_name: which kernelspec a created notebook asks for.
        wait_loaded: waits until the daemon has read the whole file.
        timeout: seconds for all that.
        reconnect_seconds: how long a lost connection is tried to be made anew; after that everything raises
            ConnectionLost. `math.inf` is for ever.

    Raises:
        RequestFailed: the daemon refuses (`code` is an HTTP status), or has no such notebook (`not_found`).
        ConnectionLost: there is no daemon at this URL.
        ProtocolError: there is something else.
        SyncTimeout: it took longer than `timeout`.
        ValueError: the URL is none, or not one of `path` and `notebook` is given.
        RuntimeError: no Trio loop runs here.
    """
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError("open_notebook needs Trio; a program of asyncio, or without a loop, uses BlockingNotebook")
    if (path is None) == (notebook is None):
        raise ValueError("either path or notebook")
    address = parse_address(url, token)
    try:
        async with open_http(address) as http, trio.open_nursery() as nursery:
            with trio.move_on_after(timeout) as opening:
                runtime = None
                if path is not None:
                    opened = await http.open_notebook(os.fspath(path), create=create, kernel_name=kernel_name)
                    notebook, runtime = opened["notebook"], opened["runtime"]
                session = ClientSession(PeerId(f"client-{secrets.token_hex(8)}"), parse_automerge_url(notebook or ""))
                if runtime is not None:
                    session.expect(parse_automerge_url(runtime))
                nb = Notebook(session, http)
                connection = Connection(
                    address,
                    session,
                    on_event=nb.on_event,
                    on_received=nb.on_received,
                    on_ended=nb.on_ended,
                    reconnect_seconds=reconnect_seconds,
                )
                nb.attach(connection)
                await nursery.start(connection.run)
                await _arrive(nb, connection, wait_loaded=wait_loaded)
            if opening.cancelled_caught:
                raise SyncTimeout(f"the notebook did not arrive within {timeout:g} s")
            async with connection.outliving():
                yield nb
                await connection.close()
    except BaseExceptionGroup as group:
        # The connection's task raises nothing once it has started, so one error is the block's own.
        if len(group.exceptions) != 1:
            raise
        error = group.exceptions[0]
        raise error from error.__cause__  # noqa: ASYNC123  # the group held nothing else


async def _arrive(nb: Notebook, connection: Connection, *, wait_loaded: bool) -> None:
    """Waits for both documents."""
    try:
        await nb.wait_for(lambda: nb.runtime_id or nb.refusal)
        if nb.refusal is not None and not nb.runtime_id:
            raise nb.refusal
        if wait_loaded and nb.file.get("status") == "loading":
            await nb.wait_for(lambda: nb.file.get("status") != "loading")
            # The last cells of the notebook document may be behind the word that it is ready.
            await nb.confirm_sync(timeout=OPEN_SECONDS)
    except ConnectionLost as error:
        if nb.is_unavailable:
            code = ErrorCode.NOT_FOUND
            raise RequestFailed(
                int(code), code.reason, {"kind": "notebook"}, f"there is no notebook {nb.url}"
            ) from error
        raise
