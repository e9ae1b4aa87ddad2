"""What a request is to the daemon: a method of a table, its checked parameters, and what its handler returns.

A handler runs up to its acceptance in order with its connection's other changing requests; what then takes long (a kernel
that starts) goes on beside them as a `Later`.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import trio

from daemon.room import Room
from kernel_bridge import Kernel
from sync.awaited_heads import HeadsRefused
from sync.core.identifiers import Heads, InvalidIdentifier, heads_from_hex
from sync.core.jsonrpc import RequestError
from sync.core.peer_changes import Recipient

# The heads of a request come with the peer's next sync message; stock clients hold that back for 100 ms at most.
HEADS_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Result:
    """A request's result; `cells`: it speaks of cells or sources, so it waits for the notebook document as well."""

    value: Mapping[str, Any]
    cells: bool = False


@dataclass(frozen=True, slots=True)
class Later:
    """Accepted; the answer comes when this is done."""

    finish: Callable[[], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way: to this room, from this peer."""

    room: Room
    recipient: Recipient

    def kernel(self) -> Kernel:
        """The room's kernel.

        Raises:
            RequestError: no_kernel.
        """
        kernel = self.room.kernels.kernel
        if kernel is None:
            raise RequestError.no_kernel()
        return kernel

    async def heads(self, hex_heads: list[str] | None) -> Heads | None:
        """The notebook heads that the request names, once they are there; None, once what the peer sent before it is.

        Raises:
            RequestError: invalid_params, or heads_timeout with those that did not come.
        """
        if hex_heads is None:
            # What the peer sent before the request is in the document that it means.
            await self.room.writer.changes_taken()
            await self.room.next_inputs.settled()
            return None
        try:
            heads = heads_from_hex(hex_heads)
        except InvalidIdentifier as error:
            raise RequestError.invalid_params("notebook_heads", str(error)) from error
        try:
            with trio.fail_after(HEADS_SECONDS):
                await self.room.writer.heads.wait(heads, self.recipient)
        except (trio.TooSlowError, HeadsRefused) as error:
            raise RequestError.heads_timeout(self.room.writer.heads.missing(heads)) from error
        return heads


Handler: TypeAlias = Callable[[Call, Any], Awaitable[Result | Later]]


@dataclass(frozen=True, slots=True)
class Method:
    """How a method is called. `ordered`: taken in order with the connection's other ordered requests."""

    params: type[msgspec.Struct]
    handler: Handler
    ordered: bool
    viewers: bool = False


class Methods(dict[str, Method]):
    """A table of methods by their names on the wire, which are their handlers' names."""

    def method(self, *, ordered: bool, viewers: bool = False) -> Callable[[Handler], Handler]:
        """Decorates a handler, which is in the table then; its parameters' type is that of its argument `params`."""

        def register(handler: Handler) -> Handler:
            self[handler.__name__] = Method(handler.__annotations__["params"], handler, ordered, viewers)
            return handler

        return register


class NoParams(msgspec.Struct):
    """A method without parameters."""


def decode_params(method: Method, params: Mapping[str, Any]) -> msgspec.Struct:
    """The parameters as the method's type; unknown ones are ignored.

    Raises:
        RequestError: invalid_params, with the name of the one that does not fit.
    """
    try:
        return msgspec.convert(params, method.params)
    except msgspec.ValidationError as error:
        text = str(error)
        if "missing required field" in text:
            param = text.split("`")[1]
        else:
            param = text.rpartition("`$.")[2].split("`")[0].split("[")[0] if "`$." in text else "params"
        raise RequestError.invalid_params(param, text) from error
