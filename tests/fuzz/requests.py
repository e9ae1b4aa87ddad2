"""JSON-RPC objects: every method of the daemon with parameters that fit, and then with some that do not."""

from random import Random
from typing import Any

import cbor2
import msgspec

from daemon.requests import METHODS, decode_params
from sync.core.cbor import ProtocolError, decode_data, encode_data
from sync.core.jsonrpc import RequestError, RequestInvalid, error_response, is_jsonrpc, parse_request
from tests.fuzz.mutation import choose, damage_value, nested, odd_number, odd_text, odd_value
from tests.fuzz.target import Target

CELLS = ("a", "b", "c")
_UUID = "00000000-0000-4000-8000-00000000000"

# A value for each parameter that there is. Nothing here executes code for long or writes outside of the root.
_PARAMETERS: dict[str, Any] = {
    "kernel_name": lambda rng: rng.choice((None, "no-such-kernel", "../python3", "")),
    "cell_id": lambda rng: rng.choice(CELLS),
    "notebook_heads": lambda rng: rng.choice((None, [], ["00" * 32], ["zz"], ["00" * 32] * 2000)),
    "execution_id": lambda rng: rng.choice((None, f"{_UUID}{rng.randrange(10)}", "not-a-uuid")),
    "stop_on_error": lambda rng: rng.choice((True, False)),
    "cell_ids": lambda rng: rng.choice((None, [], list(CELLS), ["nobody"])),
    "comm_id": lambda rng: f"comm-{rng.randrange(3)}",
    "state": lambda rng: {"value": odd_value(rng)},
    "buffer_paths": lambda rng: rng.choice(([], [["value"]], [["a", 0, "b"]], [[]], [[0]], [["value"], ["value"]])),
    "buffers": lambda rng: [rng.randbytes(rng.randrange(9)) for _ in range(rng.randrange(3))],
    "content": odd_value,
    "target_name": lambda rng: "jupyter.widget",
    "data": lambda rng: {"state": odd_value(rng)},
    "request_id": lambda rng: f"{_UUID}{rng.randrange(10)}",
    "value": odd_text,
    "code": odd_text,
    "cursor_pos": lambda rng: rng.choice((None, 0, 5, -1, 2**40)),
    "detail_level": lambda rng: rng.choice((0, 1, 2)),
    "n": lambda rng: rng.choice((0, 10, -5, 2**40)),
    "pattern": lambda rng: rng.choice((None, "*", "[")),
    "unique": lambda rng: rng.choice((True, False)),
    "path": lambda rng: rng.choice(("../outside.ipynb", "no\x00.ipynb", "", "/etc/x.ipynb", "fuzzed.txt", "x" * 5000)),
}


def make_request(rng: Random) -> dict[Any, Any]:
    """A decoded JSON-RPC object; `cbor2.undefined` and bytes may be in it."""
    method = rng.choice(list(METHODS))
    request: dict[Any, Any] = {
        "jsonrpc": "2.0",
        "id": rng.choice((1, "r", rng.randrange(2**48), f"r{rng.random()}")),
        "method": method,
        "params": {
            field.name: _PARAMETERS[field.name](rng)
            for field in msgspec.structs.fields(METHODS[method].params)
            if field.required or rng.random() < 0.7
        },
    }
    match choose(rng, (4, "right"), (4, "params"), (3, "object"), (1, "odd")):
        case "params":
            request["params"] = damage_value(rng, request["params"], _odd)
        case "object":
            damaged = damage_value(rng, request, _odd)
            request = damaged if isinstance(damaged, dict) else {"jsonrpc": damaged}
        case "odd":
            request[rng.choice(("id", "jsonrpc", "method", "params", "result"))] = _odd(rng)
    return request


def _odd(rng: Random) -> Any:
    match rng.randrange(6):
        case 0:
            return cbor2.undefined
        case 1:
            return rng.choice((odd_number(rng), cbor2.CBORTag(1, 0), {1: 2}, [cbor2.undefined], b"\x00"))
        case 2:
            return nested(rng.choice((30, 62)), "list")
        case _:
            return odd_value(rng)


async def feed_request(request: dict[Any, Any]) -> str:
    """Over the wire, read, and its parameters decoded; the answer to an error is encoded as well."""
    try:
        value = decode_data(cbor2.dumps(request))
    except ProtocolError:
        return "refused"
    if not is_jsonrpc(value):
        return "presence"
    try:
        parsed = parse_request(value)
        method = METHODS.get(parsed.method)
        if method is None:
            raise RequestError.method_not_found(parsed.method)
        decode_params(method, parsed.params)
    except RequestError as error:
        request_id = error.id if isinstance(error, RequestInvalid) else parsed.id
        encode_data(error_response(request_id if isinstance(request_id, int | str) else None, "peer", error))
        return error.reason
    return "dispatched"


REQUESTS = Target("requests", make_request, feed_request)
