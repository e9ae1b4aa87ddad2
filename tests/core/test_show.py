"""Outputs as lines, as they come."""

from daemon.core.control_characters import escaped
from daemon.core.show import MAX_LINES, CellLines, describe
from sync.client.outputs import Output


def stream(text: str) -> Output:
    return Output("stream", text=text)


def test_what_is_printed_is_shown_line_by_line_and_once() -> None:
    cell = CellLines()

    assert cell.update([stream("a\nb")], ended=False) == ["a"]
    assert cell.update([stream("a\nb")], ended=False) == []
    assert cell.update([stream("a\nbc\n")], ended=False) == ["bc"]


def test_a_progress_bar_is_shown_when_it_has_ended() -> None:
    cell = CellLines()

    assert cell.update([stream("[#   ]")], ended=False) == []
    assert cell.update([stream("[####]")], ended=True) == ["[####]"]


def test_a_display_that_changes_is_shown_again() -> None:
    cell = CellLines()

    assert cell.update([Output("display_data", data={"text/plain": "tick 0"})], ended=False) == ["tick 0"]
    assert cell.update([Output("display_data", data={"text/plain": "tick 1"})], ended=False) == ["tick 1"]


def test_what_comes_after_a_clear_is_shown() -> None:
    cell = CellLines()
    cell.update([stream("one\n")], ended=False)

    assert cell.update([], ended=False) == []
    assert cell.update([stream("one\n")], ended=False) == ["one"]


def test_pictures_are_named_and_long_tables_cut() -> None:
    picture = Output("execute_result", data={"image/png": b"12345", "text/plain": "<Image>"})
    assert describe(picture) == ["[image/png, 5 bytes]"]
    table = Output("execute_result", data={"text/plain": "\n".join("x" * (MAX_LINES + 2))})
    assert describe(table)[-1] == "[2 more lines]"


def test_all_that_is_printed_is_shown_however_long_it_gets() -> None:
    cell = CellLines()
    shown: list[str] = []
    for count in range(1, 3 * MAX_LINES):
        shown += cell.update([stream("".join(f"{n}\n" for n in range(count)))], ended=False)

    assert shown == [str(n) for n in range(3 * MAX_LINES - 1)]


def test_a_line_that_changes_after_it_was_shown_is_shown_again_with_what_follows_it() -> None:
    cell = CellLines()

    assert cell.update([stream("a\nb"), stream("!\n")], ended=False) == ["a", "b", "!"]
    assert cell.update([stream("a\nb\n"), stream("!\n")], ended=False) == []
    assert cell.update([stream("a\nbc\n"), stream("!\n")], ended=False) == ["bc"]
    assert cell.update([stream("a\nB\nd\n"), stream("!\n")], ended=False) == ["B", "d"]


def test_blank_lines_are_shown_and_nothing_is_no_line() -> None:
    cell = CellLines()

    assert cell.update([stream("")], ended=False) == []
    assert cell.update([stream("\n\n")], ended=False) == ["", ""]
    assert cell.update([stream("\n\n\n")], ended=True) == [""]


def test_nothing_that_a_terminal_would_obey_is_shown_but_colours() -> None:
    bad = "\x1b]52;c;QUFB\x07a\x1b[2J\x1bcb\x9bc\x1b[31md\x1b[0m\te\x1bPq\x1b\\f\x1b]0;unended"
    assert describe(stream(bad)) == ["abcd\tef"]
    assert describe(stream(bad), colour=True) == ["abc\x1b[31md\x1b[0m\tef"]
    assert describe(Output("error", traceback=(bad,))) == ["abcd\tef"]
    assert describe(Output("display_data", data={"text/plain": bad})) == ["abcd\tef"]
    assert escaped("name\x1b[2J\n\u2028\x9b é") == "name\\x1b[2J\\n\\u2028\\x9b é"


def test_an_error_is_its_traceback_without_colours() -> None:
    error = Output("error", ename="E", evalue="no", traceback=("\x1b[31mE\x1b[0m: no",))
    assert describe(error) == ["E: no"]
    assert describe(error, colour=True) == ["\x1b[31mE\x1b[0m: no"]
