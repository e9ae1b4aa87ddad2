"""Words that the code must not have, since what they name must not exist (docs/decisions/0007)."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("daemon", "kernel_bridge", "sync", "tests", "benchmarks", "web")
# In parts, so that this file does not have them either.
WORDS = ["".join(parts) for parts in (("Comm", "Sync"), ("Outputs", "Cleared"), ("Display", "Update"))]
SUFFIXES = {".py", ".mjs", ".js", ".ts", ".tsx", ".html"}


def code_files() -> list[Path]:
    files = [path for folder in CODE for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    return [path for path in files if "node_modules" not in path.parts]


@pytest.mark.parametrize("word", WORDS)
def test_the_code_does_not_know_the_word(word: str) -> None:
    files = code_files()

    assert len(files) > 100
    assert [path for path in files if word in path.read_text(encoding="utf-8")] == []


def test_the_reason_is_written_down() -> None:
    [decision] = (ROOT / "docs" / "decisions").glob("0007-*.md")
    assert all(word in decision.read_text() for word in WORDS)
