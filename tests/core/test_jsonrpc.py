from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.core.frames import decode_data, encode_data
from sync.core.jsonrpc import (
    ErrorCode,
    Request,
    RequestError,
    RequestInvalid,
    error_response,
    event,
    is_jsonrpc,
    parse_request,
    response,
)
from sync.core.mutations import UNSET


def request(**changes: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "barrier", "params": {}} | changes


def refusal(value: object) -> RequestInvalid:
    with pytest.raises(RequestInvalid) as caught:
        parse_request(value)
    return caught.value


@pytest.mark.parametrize("request_id", [1, 0, -5, 2**53 - 1, 2**53 + 1, -(2**63), 2**64 - 1, "abc", ""])
def test_a_request_is_read(request_id: str | int) -> None:
    value = request(id=request_id, method="execute_cell", params={"cell_id": "c"})
    assert parse_request(value) == Request(request_id, "execute_cell", {"cell_id": "c"})


def test_a_large_id_of_javascript_comes_as_a_float_and_goes_back_as_one() -> None:
    parsed = parse_request(decode_data(encode_data(request(id=2**40))))
    assert parsed.id == 2**40
    assert type(parsed.id) is int


@pytest.mark.parametrize("value", [{"jsonrpc": "2.0", "method": "barrier"}, request(id=cbor2.undefined)])
def test_a_request_without_id_is_a_notification(value: dict[str, Any]) -> None:
    assert parse_request(value).id is UNSET


@pytest.mark.parametrize("value", [{"jsonrpc": "2.0", "id": 1, "method": "barrier"}, request(params=cbor2.undefined)])
def test_params_may_be_absent(value: dict[str, Any]) -> None:
    assert parse_request(value).params == {}


def test_undefined_is_as_good_as_absent() -> None:
    value = request(params={"a": cbor2.undefined, "b": {"c": cbor2.undefined, "d": [cbor2.undefined, {"e": 1}]}})
    assert parse_request(value).params == {"b": {"d": [None, {"e": 1}]}}


def test_buffers_are_bytes() -> None:
    # cbor-x 1.6.9: update_comm with {value: 3}, buffers: [new Float32Array([1, 2])] and a parameter that is undefined
    data = bytes.fromhex(
        "b90004676a736f6e72706363322e3062696401666d6574686f646b7570646174655f636f6d6d66706172616d73b9000467636f6d6d5f6964"
        "6163657374617465b900016576616c756503676275666665727381d855480000803f000000406178f7"
    )
    expected = {"comm_id": "c", "state": {"value": 3}, "buffers": [b"\0\0\x80\x3f\0\0\0\x40"]}
    assert parse_request(decode_data(data)) == Request(1, "update_comm", expected)


@pytest.mark.parametrize("value", [None, [], "x", 5, b""])
def test_what_is_not_a_map_is_not_answered(value: object) -> None:
    assert refusal(value).id is UNSET


def test_what_is_neither_a_request_nor_a_response_is_answered() -> None:
    error = refusal({"jsonrpc": "2.0", "id": 1})
    assert (error.code, error.id) == (ErrorCode.INVALID_REQUEST, 1)


@pytest.mark.parametrize("key", ["result", "error"])
def test_a_response_is_not_answered(key: str) -> None:
    assert refusal({"jsonrpc": "2.0", "id": 1, key: {}}).id is UNSET


@pytest.mark.parametrize("request_id", [None, True, 1.5, [], {}, b"x", 2**64, 2.0**53, "x" * 201, float("nan")])
def test_other_ids_are_refused_with_id_null(request_id: object) -> None:
    error = refusal(request(id=request_id))
    assert error.code == ErrorCode.INVALID_REQUEST
    assert error.id is None


@pytest.mark.parametrize(
    "changes",
    [{"jsonrpc": "1.0"}, {"jsonrpc": 2}, {"method": None}, {"method": ""}, {"method": "x" * 65}, {"method": b"x"}],
)
def test_other_versions_and_methods_are_refused(changes: dict[str, Any]) -> None:
    error = refusal(request(**changes))
    assert error.code == ErrorCode.INVALID_REQUEST
    assert error.id == 1


@pytest.mark.parametrize("params", [[], None, "x", 1, cbor2.CBORTag(259, {})])
def test_params_other_than_a_map_are_refused(params: object) -> None:
    error = refusal(request(params=params))
    assert error.code == ErrorCode.INVALID_PARAMS
    assert error.data == {"reason": "invalid_params", "param": "params"}


@pytest.mark.parametrize(
    "content", ["c11a3b9aca00", "d90103a1616101", "d901028101", "a1416101", "e0", "81c101", "a16161c101"]
)
def test_values_that_json_can_not_say_are_refused(content: str) -> None:
    error = refusal(request(params={"state": decode_data(bytes.fromhex(content))}))
    assert error.code == ErrorCode.INVALID_PARAMS
    assert error.data["param"] == "state"


def test_names_of_params_are_strings() -> None:
    assert refusal(request(params={b"a": 1})).code == ErrorCode.INVALID_PARAMS


def test_only_maps_with_the_key_are_jsonrpc() -> None:
    assert is_jsonrpc({"jsonrpc": 1})
    assert not is_jsonrpc({"type": "__presence"})
    assert not is_jsonrpc(["jsonrpc"])


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.just(cbor2.undefined) | st.just(cbor2.CBORTag(1, 5)),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary(), inner),
    )
)
def test_any_params_give_a_request_or_an_error(params: object) -> None:
    try:
        parse_request(request(params=params))
    except RequestInvalid as error:
        assert error.code == ErrorCode.INVALID_PARAMS  # noqa: PT017 - either outcome is right


def test_answers_have_their_shape() -> None:
    assert response(7, "peer", {"heads": []}) == {"jsonrpc": "2.0", "id": 7, "to": "peer", "result": {"heads": []}}
    assert event("queue_changed", {"seq": 1}) == {"jsonrpc": "2.0", "method": "queue_changed", "params": {"seq": 1}}
    assert error_response("a", "peer", RequestError.not_found("cell")) == {
        "jsonrpc": "2.0",
        "id": "a",
        "to": "peer",
        "error": {
            "code": -32001,
            "message": "there is no such cell",
            "data": {"reason": "not_found", "kind": "cell"},
        },
    }


@pytest.mark.parametrize(
    ("error", "code", "data"),
    [
        (RequestError.method_not_found("x"), -32601, {}),
        (RequestError.invalid_params("code", "missing"), -32602, {"param": "code"}),
        (RequestError.internal(), -32603, {}),
        (RequestError.not_found("comm"), -32001, {"kind": "comm"}),
        (RequestError.not_a_code_cell(), -32002, {}),
        (RequestError.forbidden(), -32003, {}),
        (RequestError.heads_timeout(["ab"]), -32004, {"missing": ["ab"]}),
        (RequestError.no_kernel(), -32005, {}),
        (RequestError.kernel_failed("x", stderr="trace"), -32006, {"stderr": "trace"}),
        (RequestError.kernel_failed("x"), -32006, {}),
        (RequestError.timeout("x"), -32007, {}),
        (RequestError.too_many_requests("x"), -32008, {}),
        (RequestError.too_large("x"), -32009, {}),
        (RequestError.conflict("x"), -32010, {}),
        (RequestError.shutting_down(), -32011, {}),
        (RequestError.no_input_pending(), -32012, {}),
        (RequestError.busy("x"), -32013, {}),
    ],
)
def test_errors_have_their_code_and_reason(error: RequestError, code: int, data: dict[str, Any]) -> None:
    assert error.code == code
    assert error.data == {"reason": error.reason, **data}
    encoded = decode_data(encode_data(error_response(1, "p", error)))
    assert isinstance(encoded, dict)
    assert encoded["error"]["data"]["reason"] == error.code.name.lower()
