"""A stream's text as a terminal shows it, against a model that does one character at a time."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.segments import SegmentedText
from daemon.core.terminal import Terminal

LIMIT = 64 * 1024


def shown(*pieces: str, line_limit: int = LIMIT) -> str:
    terminal = Terminal(line_limit)
    for piece in pieces:
        terminal.write(piece)
    terminal.finish()
    return terminal.text_from(0)


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["a\nb\n"], "a\nb\n"),
        (["\n\n  a  \n\n"], "\n\n  a  \n\n"),
        (["a\tb\x07\x0c\n"], "a\tb\x07\x0c\n"),
        (["dos\r\n", "lines\r", "\n"], "dos\nlines\n"),
        (["abc\rX"], "Xbc"),
        (["abc\rX\n", "\r", "d"], "Xbc\nd"),
        (["abc\r"], "abc"),
        (["ab\b\bX"], "Xb"),
        (["ab\b\b\b\bX"], "Xb"),
        (["abc\b\x1b[KX"], "abX"),
        (["abc\r\x1b[KX"], "X"),
        (["abc\x1b[2KX"], "   X"),
        (["abc\r\x1b[2KX"], "X"),
        (["\x1b[K", "a\x1b[0K\n"], "a\n"),
        (["ab\x1b[5Gc"], "ab  c"),
        (["ab\x1b[2Cc\x1b[5Dd"], "db  c"),
        (["one\ntwo\x1b[AX"], "oneX\ntwo"),
        (["one\ntwo\x1b[FX\x1b[EY"], "Xne\nYwo"),
        (["one\ntwo\nthree\x1b[2A\r\x1b[J"], ""),
        (["one\x1b[9AX\x1b[9BY"], "oneXY"),
        (["\x1b[31mred\x1b[0m plain\n"], "\x1b[31mred\x1b[0m plain\n"),
        (["abc\r\x1b[31mX\x1b[0mY\n", "z"], "\x1b[31mX\x1b[0mYc\nz"),
        (["abc\r\x1b[31mX\nY"], "\x1b[31mX\x1b[0mbc\n\x1b[31mY"),
        (["\x1b[?25la\x1b[?25h\n"], "\x1b[?25la\x1b[?25h\n"),
        (["\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ ab\rL"], "Link\x1b]8;;\x1b\\ ab"),
        (["ab\r\x1b[?25l", "\rc\rd"], "db"),
        (["ab\x1b[1Kc\x1b[2J\x1b[?1Jd"], "ab\x1b[1Kc\x1b[2J\x1b[?1Jd"),
        (
            ["abc\r\x1b[38;5;208mX\x1b[48;2;1;2;3;1mY\x1b[22mZ"],
            "\x1b[38;5;208mX\x1b[1;48;2;1;2;3mY\x1b[0;38;5;208;48;2;1;2;3mZ\x1b[0m",
        ),
        (["abc\r\x1b[4:3;10;11mX"], "\x1b[4:3mX\x1b[0mbc"),
        (["a\x1b"], "a\x1b"),
        (["a\x1b[3"], "a\x1b[3"),
        (["中文\rx"], "x文"),
    ],
)
def test_text_is_what_a_terminal_shows(pieces: list[str], text: str) -> None:
    assert shown(*pieces) == text


def test_nested_progress_bars_are_redrawn_in_place() -> None:
    outer, inner = ["0/2", "1/2", "2/2"], ["a", "b"]
    pieces = ["before\n", f"\r{outer[0]}"]
    for step in (1, 2):
        pieces += [piece for text in inner for piece in ("\n", f"\r{text}{step}", "\x1b[A")]
        pieces += [f"\r{outer[step]}"]
    assert shown(*pieces) == "before\n2/2\nb2"


OPERATIONS = ["\n", "\r", "\b", "\b\b\b", "\x1b[K", "\x1b[2K", "\x1b[A", "\x1b[2A", "\x1b[B", "\x1b[3C", "\x1b[2D"]
OPERATIONS += ["\x1b[5G", "\x1b[J", "\x1b[E", "\x1b[2F", "\r\n", "\rab\rabcd\rx"]
TEXTS = st.sampled_from(["a", "bc", "中", "long enough to cover", " ", "\t"])
SEQUENCES = st.sampled_from(
    ["\x1b[31m", "\x1b[0m", "\x1b[1;32m", "\x1b[39m", "\x1b[?25l", "\x1b]0;t\x07", "\x1b(B", "\x1b"]
)
PLAIN_STREAMS = st.lists(st.one_of(TEXTS, TEXTS, st.sampled_from(OPERATIONS))).map("".join)
STREAMS = st.lists(st.one_of(TEXTS, st.sampled_from(OPERATIONS), SEQUENCES)).map("".join)
CUTS = st.lists(st.integers(0, 200))


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    bounds = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(bounds)]


def model(text: str) -> str:
    """The same, one character and one operation at a time, on a screen without bounds."""
    rows: list[list[str]] = [[]]
    row = column = 0
    for token in re.findall(r"\x1b\[(\d*)([A-Z])|(.)", text, re.DOTALL):
        number, final, character = token
        steps = int(number or "1")
        match final or character:
            case "\n":
                row, column = row + 1, 0
                if row == len(rows):
                    rows.append([])
            case "\r":
                column = 0
            case "\b":
                column = max(0, column - 1)
            case "K" if final:
                del rows[row][0 if number == "2" else column :]
            case "J" if final:
                del rows[row][column:], rows[row + 1 :]
            case "A" | "F" if final:
                row, column = max(0, row - steps), column if final == "A" else 0
            case "B" | "E" if final:
                row, column = min(len(rows) - 1, row + steps), column if final == "B" else 0
            case "C" if final:
                column += steps
            case "D" if final:
                column = max(0, column - steps)
            case "G" if final:
                column = steps - 1
            case _:
                rows[row] += " " * (column - len(rows[row]))
                rows[row][column : column + 1] = [character]
                column += 1
    return "\n".join(map("".join, rows))


@given(PLAIN_STREAMS, CUTS)
def test_any_cut_of_a_stream_shows_what_the_model_shows(text: str, cuts: list[int]) -> None:
    assert shown(*pieces_of(text, cuts)) == model(text)


@given(STREAMS, CUTS)
def test_any_cut_of_a_stream_with_colours_shows_the_same(text: str, cuts: list[int]) -> None:
    assert shown(*pieces_of(text, cuts)) == shown(text)


@given(PLAIN_STREAMS, CUTS)
def test_looking_at_long_lines_changes_nothing(text: str, cuts: list[int]) -> None:
    terminal = Terminal(8)
    for piece in pieces_of(text, cuts):
        terminal.write(piece)
        terminal.text_from(0)
    terminal.finish()
    assert terminal.text_from(0) == shown(text, line_limit=8)


def test_a_line_of_just_the_limit_can_be_gone_back_to_however_it_came() -> None:
    whole, looked_at = Terminal(8), Terminal(8)
    whole.write("x\nabcdefgh\n\x1b[AX")
    looked_at.write("x\nabcdefgh")
    looked_at.text_from(0)
    looked_at.write("\n\x1b[AX")
    assert whole.text_from(0) == looked_at.text_from(0) == "x\nXbcdefgh\n"


def coloured(text: str) -> list[tuple[str, frozenset[str]]]:
    """Each visible character of a text without cursor moves, with the codes in force."""
    codes: frozenset[str] = frozenset()
    cells = []
    for params, character in re.findall(r"\x1b\[([\d;]*)m|(.)", text, re.DOTALL):
        if character:
            cells.append((character, codes if character != "\n" else frozenset()))
        else:
            for code in params.split(";"):
                codes = (
                    frozenset() if code == "0" else codes - {"31", "32"} | {code} if code[0] == "3" else codes | {code}
                )
    return cells


@given(
    st.lists(
        st.one_of(TEXTS, st.sampled_from(["\r", "\b\b", "\x1b[31m", "\x1b[32m", "\x1b[1m", "\x1b[0m", "\x1b[0m\n"]))
    )
)
def test_overwritten_text_has_the_colours_that_it_was_written_in(tokens: list[str]) -> None:
    rows: list[list[tuple[str, frozenset[str]]]] = [[]]
    column, codes = 0, "\x1b[0m"
    for token in tokens:
        if token == "\r":
            column = 0
        elif token == "\b\b":
            column = max(0, column - 2)
        elif token.startswith("\x1b"):
            codes += token.strip("\n")
            if token.endswith("\n"):
                rows[-1].append(("\n", frozenset()))
                rows.append([])
                column = 0
        else:
            cells = coloured(codes + token)
            rows[-1][column : column + len(cells)] = cells
            column += len(cells)
    assert coloured(shown(*tokens)) == [cell for row in rows for cell in row]


def test_a_line_keeps_only_its_end_editable() -> None:
    text = shown("a" * 100, "\rX", line_limit=64)
    assert text == "a" * 64 + "X" + "a" * 35


def test_cursor_goes_up_a_screen_at_most() -> None:
    lines = shown("a\n" * 100, "\x1b[500AX").split("\n")
    assert [index for index, line in enumerate(lines) if "X" in line] == [100 - 63]


def test_text_with_too_many_controls_loses_its_moves_only() -> None:
    text = shown("ab\b" * 30_000 + "\x1b[31mend\n")
    assert text.endswith("abab\x1b[31mend\n")
    assert len(text) < 60_000


def test_a_colour_on_every_character_of_a_long_overwritten_line_is_not_worth_its_bytes() -> None:
    text = shown("x\r" + "\x1b[31ma\x1b[32mb" * 500, line_limit=1024)
    assert text == "ab" * 500


class Document:
    """The segments as the document would have them."""

    def __init__(self, **limits: int) -> None:
        self.stream = SegmentedText(**{"line_limit": LIMIT, "kept": 8 << 20, **limits})
        self.segments: list[str] = []

    def write(self, *pieces: str) -> None:
        for piece in pieces:
            self.stream.terminal.write(piece)

    def take(self, join_above: int | None = None, *, release: bool = False) -> tuple[int, list[str]] | None:
        edit = self.stream.take(join_above=join_above, release=release)
        if edit is None:
            return None
        first, segments = edit
        assert first in {0, len(self.segments), len(self.segments) - 1}
        assert all(segments) or segments == ("",)
        assert segments
        self.segments[first:] = segments
        return first, list(segments)


def test_closed_segments_hold_lines_and_only_the_open_one_is_replaced() -> None:
    document = Document()
    document.write("one\n", "two\n", "thr")
    assert document.take() == (0, ["one\ntwo\n", "thr"])
    document.write("ee")
    assert document.take() == (1, ["three"])
    document.write("\nfour\n", "five\n")
    assert document.take() == (1, ["three\nfour\nfive\n"])
    assert document.take() is None
    document.write("six\n")
    assert document.take() == (2, ["six\n"])


def test_a_long_line_is_closed_and_goes_on_in_the_next_segment() -> None:
    document = Document()
    document.write("é" * 600)
    document.take()
    document.write("tail")
    assert document.take() == (1, ["tail"])
    document.write("\r-")
    assert document.take() == (0, ["-" + "é" * 599 + "tail"])
    document.write("\r+")
    assert document.take() == (0, ["+" + "é" * 599 + "tail"])


def test_a_bar_behind_much_text_costs_its_own_line_only() -> None:
    document = Document()
    document.write("line\n" * 1000)
    document.take()
    for step in range(5):
        document.write(f"\r{step}%")
        assert document.take() == (1, [f"{step}%"])


def test_an_erased_line_leaves_an_empty_open_segment() -> None:
    document = Document()
    document.write("done\n50%")
    document.take()
    document.write("\r\x1b[K")
    assert document.take() == (1, [""])
    assert document.take() is None
    document.write("end\n")
    assert document.take() == (1, ["end\n"])


def test_many_segments_are_joined_at_the_end_and_the_open_line_stays_open() -> None:
    document = Document()
    for number in range(100):
        document.write(f"{number}\n")
        document.take()
    document.write("50%")
    assert document.take(join_above=64) == (0, ["".join(f"{number}\n" for number in range(100)), "50%"])
    document.take(release=True)
    document.write("\r60%")
    assert document.take(join_above=64) == (1, ["60%"])


def test_a_text_that_is_too_long_to_be_kept_is_not_joined_and_goes_on() -> None:
    document = Document(kept=1000)
    for number in range(200):
        document.write(f"{number:09}\n")
        document.take()
    document.write("50%")
    assert document.take(join_above=64) == (200, ["50%"])
    document.write("\r60%\x1b[A\rX")  # the line above is no longer in memory
    assert document.take(join_above=64) == (200, ["X0%"])


def test_editing_long_lines_writes_all_of_the_text_anew_a_few_times_at_most() -> None:
    document = Document()
    document.write("text\n" * 1000)
    rewritten = 0
    for _ in range(100):
        document.write("a" * 2000)
        document.take()
        document.write("\rb\n")
        edit = document.take()
        assert edit is not None
        rewritten += edit[0] == 0
    assert rewritten <= 20


@given(st.lists(st.tuples(STREAMS, st.sampled_from(["take", "end", ""])), max_size=12), st.sampled_from([LIMIT, 16]))
def test_segments_always_join_to_the_text(steps: list[tuple[str, str]], line_limit: int) -> None:
    document = Document(line_limit=line_limit)
    terminal = Terminal(line_limit)
    for text, then in steps:
        document.write(text)
        terminal.write(text)
        if then:
            document.take(join_above=3 if then == "end" else None)
            assert "".join(document.segments) == terminal.text_from(0)
            assert then != "end" or len(document.segments) <= 3


@given(st.lists(st.tuples(STREAMS, st.booleans()), max_size=12), st.sampled_from([0, 20]))
def test_segments_of_a_text_that_is_not_kept_stay_consistent(steps: list[tuple[str, bool]], kept: int) -> None:
    document = Document(kept=kept)
    for text, release in steps:
        document.write(text)
        document.take(join_above=3, release=release)
        terminal = document.stream.terminal
        start = terminal.kept_from
        assert "".join(document.segments)[start:] == terminal.text_from(start)


def test_a_released_text_keeps_its_unfinished_line_open_whatever_its_length() -> None:
    document = Document()
    document.write("line\n", "w" * 2000)
    document.take()
    assert document.take(release=True) == (0, ["line\n", "w" * 2000])
    document.write("\rX")
    assert document.take(release=True) == (1, ["X" + "w" * 1999])


def test_an_edit_of_a_closed_segment_is_written_though_a_later_line_was_edited_too() -> None:
    document = Document()
    document.write("w" * 2000)
    document.take()
    document.write("\rX\nab\bc")
    assert document.take() == (0, ["X" + "w" * 1999 + "\n", "ac"])


def test_lines_closed_after_a_release_can_no_longer_be_gone_back_to() -> None:
    document = Document()
    document.write("one\n")
    document.take(release=True)
    document.write("two\n")
    assert document.take() == (1, ["two\n"])
    document.write("\x1b[Ax")
    assert document.take() == (2, ["x"])


def test_of_a_long_line_that_is_not_kept_only_the_end_can_be_overwritten() -> None:
    document = Document(kept=1000)
    document.write("x" * 2000 + "\n" + "w" * 2000)
    document.take()
    document.write("\rX")
    assert document.take() == (1, ["X"])
    document.write("YZ\rA")
    assert document.take() == (1, ["AYZ"])


def test_a_line_too_long_to_be_gone_back_to_stays_as_it_is() -> None:
    assert shown("a" * 100 + "\n", "b\x1b[A", "X", line_limit=64) == "a" * 100 + "\nbX"
