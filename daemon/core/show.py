"""What a cell's outputs look like as lines of text, as they come: for pipes, and for terminals that only go forward."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from daemon.core.control_characters import tamed
from sync.client.blob_refs import BlobRef
from sync.client.outputs import Output

# A table of a thousand rows is in the notebook; here a person wants to see that it is there. What is printed is not cut.
MAX_LINES = 40


def describe(output: Output, *, colour: bool = False) -> list[str]:
    """The output as lines; what is no text is named with its type and size."""
    match output.output_type:
        case "stream":
            lines = _lines_of(output.text)
        case "error":
            lines = "\n".join(output.traceback or [f"{output.ename}: {output.evalue}"]).split("\n")
        case _:
            lines = _describe_bundle(output.data)
    lines = [tamed(line, colour=colour) for line in lines]
    if len(lines) > MAX_LINES and output.output_type != "stream":
        lines = [*lines[:MAX_LINES], f"[{len(lines) - MAX_LINES} more lines]"]
    return lines


def _describe_bundle(data: Mapping[str, Any]) -> list[str]:
    sizes = {
        mime: value.size if isinstance(value, BlobRef) else len(value)
        for mime, value in data.items()
        if isinstance(value, bytes | BlobRef)
    }
    pictures = [f"[{mime}, {size} bytes]" for mime, size in sizes.items()]
    text = data.get("text/plain")
    if isinstance(text, str) and not (pictures and text.startswith("<")):
        return [*text.split("\n"), *pictures]
    return pictures or [f"[{', '.join(data) or 'nothing'}]"]


def _lines_of(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


@dataclass
class CellLines:
    """One cell as it runs: what of each output was shown already."""

    colour: bool = False
    _shown: dict[int, list[str]] = field(default_factory=dict)
    _printed: dict[int, str] = field(default_factory=dict)

    def update(self, outputs: Sequence[Output], *, ended: bool) -> list[str]:
        """Lines to be shown now; the last line of a stream waits for its end, since it may be rewritten."""
        new: list[str] = []
        for index, output in enumerate(outputs):
            if output.output_type == "stream":
                growing = index == len(outputs) - 1 and not ended
                new += self._printed_since(index, output, growing=growing)
                continue
            lines = describe(output, colour=self.colour)
            new += _from_first_difference(self._shown.get(index, []), lines)
            self._shown[index] = lines
        # Cleared: what comes now is shown anew.
        self._shown = {index: lines for index, lines in self._shown.items() if index < len(outputs)}
        self._printed = {index: text for index, text in self._printed.items() if index < len(outputs)}
        return new

    def _printed_since(self, index: int, output: Output, *, growing: bool) -> list[str]:
        text, before = output.text, self._printed.get(index, "")
        if growing:
            text = text[: text.rfind("\n") + 1]
        # The rest alone is cut into lines: a long text would be, whole, for each line that it grows by.
        start = before.rfind("\n") + 1 if text.startswith(before) else 0
        self._printed[index] = text
        rest = describe(Output("stream", text=text[start:]), colour=self.colour)
        return _from_first_difference(describe(Output("stream", text=before[start:]), colour=self.colour), rest)


def _from_first_difference(before: list[str], lines: list[str]) -> list[str]:
    same = 0
    while same < min(len(lines), len(before)) and lines[same] == before[same]:
        same += 1
    return lines[same:]
