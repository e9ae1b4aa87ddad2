"""What commands print."""

import pytest

from daemon.printing import Printer


def test_what_others_wrote_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    Printer().say("[1/2] # \x1b[2J of a cell\nnext")
    assert capsys.readouterr().out == "[1/2] # \\x1b[2J of a cell\nnext\n"
