"""What a cell's outputs look like as lines of text, as they come: for pipes, and for terminals that only go forward."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sync.client.blob_refs import BlobRef
from sync.client.outputs import Output

# A table of a thousand rows is in the notebook; here a person wants to see that it is there.
MAX_LINES = 40

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def describe(output: Output, *, colour: bool = False) -> list[str]:
    """The output as lines; what is no text is named with its type and size."""
    match output.output_type:
        case "stream":
            lines = output.text.removesuffix("\n").split("\n")
        case "error":
            lines = "\n".join(output.traceback or [f"{output.ename}: {output.evalue}"]).split("\n")
        case _:
            lines = _describe_bundle(output.data)
    if not colour:
        lines = [_ESCAPES.sub("", line) for line in lines]
    if len(lines) > MAX_LINES:
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


@dataclass
class CellLines:
    """One cell as it runs: which lines of each output were shown already."""

    colour: bool = False
    _shown: dict[int, list[str]] = field(default_factory=dict)

    def update(self, outputs: Sequence[Output], *, ended: bool) -> list[str]:
        """Lines to be shown now; the last line of a stream waits for its end, since it may be rewritten."""
        new: list[str] = []
        for index, output in enumerate(outputs):
            lines = describe(output, colour=self.colour)
            growing = output.output_type == "stream" and index == len(outputs) - 1 and not ended
            if growing and not output.text.endswith("\n"):
                lines = lines[:-1]
            before = self._shown.get(index, [])
            if lines == before:
                continue
            same = 0
            while same < min(len(lines), len(before)) and lines[same] == before[same]:
                same += 1
            new += lines[same:]
            self._shown[index] = lines
        if len(outputs) < len(self._shown):
            # Cleared: what comes now is shown anew.
            self._shown = {index: lines for index, lines in self._shown.items() if index < len(outputs)}
        return new
