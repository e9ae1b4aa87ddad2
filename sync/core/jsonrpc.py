"""JSON-RPC 2.0 objects as they travel in ephemeral messages: requests in, responses and events out.

Objects are plain dicts of JSON values and bytes. There are no batches; a response names its receiver in `to`, because
every peer of the document sees it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self, TypeGuard

import cbor2

from sync.core.limits import MAX_ID_CHARS, MAX_WORD_CHARS
from sync.core.mutations import UNSET, Unset


class ErrorCode(IntEnum):
    """The codes of error responses (docs/wire.md); the lower-case name is the `reason` in the error's data."""

    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL = -32603
    NOT_FOUND = -32001
    NOT_A_CODE_CELL = -32002
    FORBIDDEN = -32003
    HEADS_TIMEOUT = -32004
    NO_KERNEL = -32005
    KERNEL_FAILED = -32006
    TIMEOUT = -32007
    TOO_MANY_REQUESTS = -32008
    TOO_LARGE = -32009
    CONFLICT = -32010
    SHUTTING_DOWN = -32011
    NO_INPUT_PENDING = -32012
    BUSY = -32013

    @property
    def reason(self) -> str:
        """The word that stands in `data`."""
        return self.name.lower()


class RequestError(Exception):
    """A request failed; what its response says.

    Args:
        code: which error.
        message: one sentence for a person.
        **data: what belongs into `data` beside `reason`; None is left out.

    Attributes:
        data: `reason` and the rest, as it is sent.
    """

    def __init__(self, code: ErrorCode, message: str, **data: Any) -> None:
        super().__init__(message)
        self.code = code
        self.reason = code.reason
        self.message = message
        self.data: dict[str, Any] = {"reason": self.reason}
        self.data.update((key, value) for key, value in data.items() if value is not None)

    @classmethod
    def method_not_found(cls, method: str) -> Self:
        """There is no such method."""
        return cls(ErrorCode.METHOD_NOT_FOUND, f"there is no method {method}")

    @classmethod
    def invalid_params(cls, param: str, message: str) -> Self:
        """A parameter is missing, of another type or out of its bounds."""
        return cls(ErrorCode.INVALID_PARAMS, message, param=param)

    @classmethod
    def internal(cls) -> Self:
        """A mistake of the daemon; the details are in its log."""
        return cls(ErrorCode.INTERNAL, "the daemon failed to do this; its log says why")

    @classmethod
    def not_found(cls, kind: str) -> Self:
        """The cell, execution, comm or whatever `kind` names does not exist."""
        return cls(ErrorCode.NOT_FOUND, f"there is no such {kind}", kind=kind)

    @classmethod
    def not_a_code_cell(cls) -> Self:
        """The cell is there, but holds no code."""
        return cls(ErrorCode.NOT_A_CODE_CELL, "only code cells can be executed")

    @classmethod
    def forbidden(cls, message: str = "this connection may only read") -> Self:
        """The peer may not do this."""
        return cls(ErrorCode.FORBIDDEN, message)

    @classmethod
    def heads_timeout(cls, missing: Iterable[str]) -> Self:
        """Changes that the request means did not arrive, or were refused; `missing` are their hashes in hex."""
        return cls(ErrorCode.HEADS_TIMEOUT, "changes that the request names did not arrive", missing=list(missing))

    @classmethod
    def no_kernel(cls) -> Self:
        """No kernel runs."""
        return cls(ErrorCode.NO_KERNEL, "no kernel is running")

    @classmethod
    def kernel_failed(cls, message: str, stderr: str | None = None) -> Self:
        """The kernel could not be launched, or died; `stderr` is the end of what it wrote."""
        return cls(ErrorCode.KERNEL_FAILED, message, stderr=stderr)

    @classmethod
    def timeout(cls, message: str) -> Self:
        """It took too long."""
        return cls(ErrorCode.TIMEOUT, message)

    @classmethod
    def too_many_requests(cls, message: str) -> Self:
        """The peer has too many requests in flight, or a queue is full."""
        return cls(ErrorCode.TOO_MANY_REQUESTS, message)

    @classmethod
    def too_large(cls, message: str) -> Self:
        """The request, its buffers or a source exceed their bound."""
        return cls(ErrorCode.TOO_LARGE, message)

    @classmethod
    def conflict(cls, message: str) -> Self:
        """It contradicts what is there, such as a file that changed on disk."""
        return cls(ErrorCode.CONFLICT, message)

    @classmethod
    def shutting_down(cls) -> Self:
        """The daemon or the room is ending."""
        return cls(ErrorCode.SHUTTING_DOWN, "the notebook is being closed")

    @classmethod
    def no_input_pending(cls) -> Self:
        """Nobody waits for input, or it was given already."""
        return cls(ErrorCode.NO_INPUT_PENDING, "the kernel does not wait for this input")

    @classmethod
    def busy(cls, message: str) -> Self:
        """It can't be done while something runs."""
        return cls(ErrorCode.BUSY, message)


class RequestInvalid(RequestError):
    """An object is not a request that can be dispatched.

    Attributes:
        id: of the error response: None where the request's own can't be told; UNSET where nothing is to be answered.
    """

    def __init__(self, code: ErrorCode, message: str, *, id: str | int | None | Unset, **data: Any) -> None:  # noqa: A002
        super().__init__(code, message, **data)
        self.id = id


@dataclass(frozen=True, slots=True)
class Request:
    """A request, or a notification (`id` is UNSET): executed and not answered.

    `params` hold JSON values and bytes alone; parameters that JavaScript sent as undefined are left out.
    """

    id: str | int | Unset
    method: str
    params: dict[str, Any]


def is_jsonrpc(value: object) -> TypeGuard[dict[Any, Any]]:
    """Whether the data of an ephemeral message is meant as JSON-RPC, so that it is never passed on as presence."""
    return isinstance(value, dict) and "jsonrpc" in value


def parse_request(value: object) -> Request:
    """Reads a decoded JSON-RPC object.

    Raises:
        RequestInvalid: it is not a request, or its parameters hold what JSON and byte strings can't say.
    """
    if not isinstance(value, dict):
        raise RequestInvalid(ErrorCode.INVALID_REQUEST, "a request is a map", id=UNSET)
    if "method" not in value and ("result" in value or "error" in value):
        # Never answer an answer.
        raise RequestInvalid(ErrorCode.INVALID_REQUEST, "a response is not a request", id=UNSET)
    request_id = _parse_id(value.get("id", UNSET))
    if value.get("jsonrpc") != "2.0":
        raise RequestInvalid(ErrorCode.INVALID_REQUEST, 'jsonrpc must be "2.0"', id=request_id)
    method = value.get("method")
    if not isinstance(method, str) or not 0 < len(method) <= MAX_WORD_CHARS:
        raise RequestInvalid(ErrorCode.INVALID_REQUEST, "method must be a short string", id=request_id)
    params = value.get("params", cbor2.undefined)
    if params is cbor2.undefined:
        return Request(request_id, method, {})
    if not isinstance(params, dict):
        raise RequestInvalid(ErrorCode.INVALID_PARAMS, "params must be a map", id=request_id, param="params")
    plain = {}
    for key, item in params.items():
        if item is cbor2.undefined:
            continue
        try:
            if not isinstance(key, str):
                raise _NotJson
            plain[key] = _plain(item)
        except _NotJson as error:
            raise RequestInvalid(
                ErrorCode.INVALID_PARAMS, "only JSON values and bytes are taken", id=request_id, param=str(key)
            ) from error
    return Request(request_id, method, plain)


def id_to_answer(value: Mapping[Any, Any]) -> str | int | None:
    """The id of what is not even looked at as a request; None where it has none that an answer could carry."""
    try:
        request_id = _parse_id(value.get("id", UNSET))
    except RequestInvalid:
        return None
    return None if isinstance(request_id, Unset) else request_id


def response(request_id: str | int, to: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request that succeeded; `to` is the peer that asked."""
    return {"jsonrpc": "2.0", "id": request_id, "to": to, "result": dict(result)}


def error_response(request_id: str | int | None, to: str, error: RequestError) -> dict[str, Any]:
    """The answer to a request that failed; `to` is the peer that asked."""
    content = {"code": int(error.code), "message": error.message, "data": error.data}
    return {"jsonrpc": "2.0", "id": request_id, "to": to, "error": content}


def event(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """An event for every peer."""
    return {"jsonrpc": "2.0", "method": method, "params": dict(params)}


class _NotJson(Exception):
    """A value that has no place in a request: a date, a set, a map with keys that are not strings."""


def _parse_id(value: object) -> str | int | Unset:
    if value is UNSET or value is cbor2.undefined:
        return UNSET
    # JavaScript's encoder writes integers from 2**32 on as float64, which are exact below 2**53: an id comes back as it was.
    if type(value) is float and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if type(value) is int and abs(value) < 2**64:
        return value
    if type(value) is str and len(value) <= MAX_ID_CHARS:
        return value
    raise RequestInvalid(ErrorCode.INVALID_REQUEST, "id must be a short string or an integer", id=None)


def _plain(value: Any) -> Any:
    """The value without undefined, which JSON has no word for: gone from maps, null in lists."""
    if isinstance(value, dict):
        types = set(map(type, value.values()))
        if not all(type(key) is str for key in value):
            raise _NotJson
        if types <= _SCALARS:
            return value
        return {key: _plain(item) for key, item in value.items() if item is not cbor2.undefined}
    if isinstance(value, list):
        # Most long lists are numbers: looked at without a call for each.
        if set(map(type, value)) <= _SCALARS:
            return value
        return [None if item is cbor2.undefined else _plain(item) for item in value]
    if type(value) not in _SCALARS:
        raise _NotJson
    return value


_SCALARS = frozenset((type(None), bool, int, float, str, bytes))
