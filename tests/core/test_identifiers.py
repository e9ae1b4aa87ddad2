import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.core.identifiers import (
    InvalidIdentifier,
    automerge_url,
    document_id,
    heads_from_hex,
    heads_to_hex,
    parse_automerge_url,
    parse_document_id,
)
from sync.core.limits import MAX_HEADS

# `automerge:` URL and bytes of one document, from automerge-repo 2.5.6: parseAutomergeUrl(generateAutomergeUrl()).
STOCK_ID = "2j9knpCseyhnK8izDmLpGP5WMdZQ"


def test_an_id_of_a_stock_client_is_valid() -> None:
    assert parse_document_id(STOCK_ID) == STOCK_ID


@given(st.binary(min_size=16, max_size=16))
def test_ids_and_urls_round_trip(raw: bytes) -> None:
    made = document_id(raw)
    assert parse_document_id(made) == made
    assert parse_automerge_url(automerge_url(made)) == made


@pytest.mark.parametrize(
    "text",
    [
        "",
        "automerge",
        STOCK_ID + " ",
        " " + STOCK_ID,
        STOCK_ID[:-1],
        STOCK_ID[:-1] + "R",
        STOCK_ID.lower(),
        "0" + STOCK_ID[1:],
        "é" * 20,
        "1" * 28,
        "1" * 1_000_000,
        "3QJmnh",  # base58check of nothing
        "\ud800" * 10,
    ],
)
def test_what_is_not_an_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidIdentifier):
        parse_document_id(text)


def test_an_id_is_made_of_16_bytes() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        document_id(b"x" * 15)


def test_heads_in_a_url_are_left_aside() -> None:
    assert parse_automerge_url(f"automerge:{STOCK_ID}#abc|def") == STOCK_ID


@pytest.mark.parametrize("text", ["", STOCK_ID, f"automerge:{STOCK_ID}/path", "automerge:", f"AUTOMERGE:{STOCK_ID}"])
def test_what_is_not_a_url_is_refused(text: str) -> None:
    with pytest.raises(InvalidIdentifier):
        parse_automerge_url(text)


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=5))
def test_heads_round_trip_sorted_and_each_once(heads: list[bytes]) -> None:
    assert heads_from_hex(heads_to_hex(heads)) == tuple(sorted(set(heads)))


def test_hex_heads_are_sorted() -> None:
    assert heads_to_hex([b"\xff" * 32, b"\x00" * 32]) == ["00" * 32, "ff" * 32]


@pytest.mark.parametrize(
    "value",
    [
        None,
        "00" * 32,
        {"00" * 32: 1},
        [b"\x00" * 32],
        ["00" * 31],
        ["AA" * 32],
        ["0 " * 32],
        ["00" * 32 + "\n"],
        [None],
    ],
)
def test_ill_typed_heads_are_refused(value: object) -> None:
    with pytest.raises(InvalidIdentifier):
        heads_from_hex(value)


def test_too_many_heads_are_refused() -> None:
    with pytest.raises(InvalidIdentifier, match="1000"):
        heads_from_hex(["00" * 32] * (MAX_HEADS + 1))
