"""A notebook file (.ipynb, nbformat 4) <-> what the daemon makes of it. Pure; `daemon/files.py` reads and writes.

Reading takes what is there: any minor version, the old major versions through nbformat's own conversion, outputs that lack
fields or that nobody knows (left out, with a warning). What can't be read without losing what a person wrote is refused:
the daemon must never write back less than it found. Writing gives what Jupyter's own writer gives, and is checked
against nbformat's schema.
"""

import json
import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Literal

import msgspec
import nbformat
from nbformat.converter import convert
from nbformat.reader import reads as read_any_version

from daemon.core.notebook_model import CellType, InvalidNotebook, LoadedCell, LoadedNotebook, SavedCell, SavedNotebook
from sync.core.json_text import clean, depth_and_buffers, finite
from sync.core.limits import MAX_DEPTH, MAX_DOCUMENT_OPS, MAX_SOURCE_BYTES
from sync.core.media_types import JSON
from sync.core.outputs import DisplayOutput, ErrorOutput, Output, StreamOutput

WIDGET_STATE = "application/vnd.jupyter.widget-state+json"

__all__ = [
    "WIDGET_STATE",
    "InvalidNotebook",
    "LoadedCell",
    "LoadedNotebook",
    "SavedCell",
    "SavedNotebook",
    "parse_notebook",
    "parse_output",
    "render_notebook",
]

# Each character of a source is an operation of the notebook document; a quarter of what it may hold is left for edits.
MAX_SOURCE_CHARS = MAX_DOCUMENT_OPS * 3 // 4

_CR_LF = re.compile(r"\r+\n")
_CELL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BOM = b"\xef\xbb\xbf"
_MAX_WARNINGS = 20  # they go to a log line; a file can have one per output
_MAX_REPAIRS = 100  # metadata keys taken out of one cell: the schema knows a dozen that can be wrong


def parse_notebook(data: bytes, new_id: Callable[[], str]) -> LoadedNotebook:
    """Reads a notebook file.

    CR LF within sources becomes LF, as in every editor. An empty file is no notebook, as for Jupyter.

    Args:
        data: The file.
        new_id: Makes ids for outputs, and for cells that have none, an invalid one, or another cell's. UUIDs will do.

    Raises:
        InvalidNotebook: It is none, it is of a newer format, or a limit on sources or nesting does not let it in.
    """
    content = _parse_json(data)
    if not isinstance(content, dict):
        raise InvalidNotebook("the file is JSON, but no notebook: no object")
    major = content.get("nbformat")
    if type(major) is not int:
        raise InvalidNotebook("the file is JSON, but no notebook: it names no format version (nbformat)")
    if major > 4:
        raise InvalidNotebook(f"the file has nbformat {major}; this version reads up to 4")
    if major < 4:
        content = _converted(data)
    minor = content.get("nbformat_minor")
    notebook = LoadedNotebook(nbformat_minor=minor if type(minor) is int and major == 4 else 5)
    return _Reading(notebook, new_id).read(content)


def parse_output(raw: object, new_id: Callable[[], str]) -> Output | None:
    """One output of nbformat 4, as files and Output widgets have it; None if it is of a type that nobody knows."""
    if not isinstance(raw, dict):
        return None
    match raw.get("output_type"):
        case "stream":
            name: Literal["stdout", "stderr"] = "stderr" if raw.get("name") == "stderr" else "stdout"
            text = _joined(raw.get("text"))
            return StreamOutput(new_id(), name, (text,) if text else ())
        case "display_data" | "execute_result" as output_type:
            data, metadata = raw.get("data"), raw.get("metadata")
            return DisplayOutput(
                new_id(),
                output_type,
                {mime: _mime_value(mime, value) for mime, value in data.items()} if isinstance(data, dict) else {},
                metadata if isinstance(metadata, dict) else {},
                execution_count=_count(raw.get("execution_count")),
            )
        case "error":
            traceback = raw.get("traceback")
            lines = traceback if isinstance(traceback, list) else [traceback] if traceback else []
            return ErrorOutput(
                new_id(), str(raw.get("ename", "")), str(raw.get("evalue", "")), tuple(str(line) for line in lines)
            )
        case _:
            return None


def render_notebook(notebook: SavedNotebook) -> bytes:
    """The file of a notebook: nbformat 4.5, in the key order, line splitting and indentation of Jupyter's writer.

    Metadata that nbformat's schema forbids (tags that are no list, a kernelspec without a name) are left out of the
    file. Takes about 0.2 ms a cell, so it belongs in a thread.

    Raises:
        InvalidNotebook: The result is not valid all the same.
    """
    metadata = {key: value for key, value in notebook.metadata.items() if key not in _NEVER_WRITTEN}
    if notebook.widget_state is not None:
        widgets = metadata.get("widgets")
        metadata["widgets"] = {**(widgets if isinstance(widgets, dict) else {}), WIDGET_STATE: notebook.widget_state}
    content: dict[str, Any] = {
        "cells": [_rendered_cell(cell) for cell in notebook.cells],
        "metadata": metadata,
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    try:
        _make_valid(content)
        return (_json_text(content) + "\n").encode()
    except UnicodeEncodeError:
        return (clean(_json_text(content)) + "\n").encode()
    except RecursionError as error:
        raise InvalidNotebook("the notebook nests too deeply") from error


# What nbformat's own reader and writer take out.
_NEVER_WRITTEN = frozenset({"orig_nbformat", "orig_nbformat_minor", "signature"})


class _Reading:
    """One notebook being read; collects warnings and knows which ids are taken."""

    def __init__(self, notebook: LoadedNotebook, new_id: Callable[[], str]) -> None:
        self._notebook = notebook
        self._new_id = new_id
        self._taken: set[str] = set()
        self._chars = 0

    def read(self, content: dict[str, Any]) -> LoadedNotebook:
        cells = content.get("cells")
        if not isinstance(cells, list):
            raise InvalidNotebook("the file has no list of cells")
        metadata = self._metadata(content.get("metadata"), "the notebook")
        widgets = metadata.get("widgets")
        if isinstance(widgets, dict) and isinstance(widgets.get(WIDGET_STATE), dict):
            self._notebook.widget_state = widgets[WIDGET_STATE]
            others = {key: value for key, value in widgets.items() if key != WIDGET_STATE}
            metadata = {key: value for key, value in metadata.items() if key != "widgets"}
            if others:
                metadata["widgets"] = others
        self._notebook.metadata = {key: value for key, value in metadata.items() if key not in _NEVER_WRITTEN}
        self._notebook.cells = [self._cell(cell, f"cell {number}") for number, cell in enumerate(cells, 1)]
        return self._notebook

    def _warn(self, text: str) -> None:
        if len(self._notebook.warnings) < _MAX_WARNINGS:
            self._notebook.warnings.append(text)

    def _cell(self, raw: object, name: str) -> LoadedCell:
        if not isinstance(raw, dict):
            raise InvalidNotebook(f"{name} is no object")
        kind = _cell_type(raw.get("cell_type"))
        if kind != raw.get("cell_type"):
            self._warn(f"{name} has an unknown type and is shown as a raw cell")
        cell = LoadedCell(
            self._cell_id(raw.get("id")),
            kind,
            self._source(raw.get("source"), name),
            self._metadata(raw.get("metadata"), name),
        )
        cell.metadata.pop("trusted", None)  # nbformat's writer takes it out as well: it says nothing about this file
        attachments = raw.get("attachments")
        if isinstance(attachments, dict):
            cell.attachments = {
                key: {mime: _mime_value(mime, value) for mime, value in bundle.items()}
                for key, bundle in attachments.items()
                if isinstance(bundle, dict)
            }
        if kind == "code":
            cell.execution_count = _count(raw.get("execution_count"))
            outputs = raw.get("outputs")
            for output in outputs if isinstance(outputs, list) else ():
                parsed = parse_output(output, self._new_id)
                if parsed is None:
                    self._warn(f"{name} has an output of an unknown type, which is left out")
                else:
                    cell.outputs.append(parsed)
        return cell

    def _cell_id(self, raw: object) -> str:
        cell_id = raw if isinstance(raw, str) and _CELL_ID.fullmatch(raw) and raw not in self._taken else self._new_id()
        self._taken.add(cell_id)
        return cell_id

    def _source(self, raw: object, name: str) -> str:
        source = _CR_LF.sub("\n", _joined(raw))
        if len(source) > MAX_SOURCE_BYTES or len(source.encode()) > MAX_SOURCE_BYTES:
            raise InvalidNotebook(f"the source of {name} exceeds {MAX_SOURCE_BYTES} bytes")
        self._chars += len(source)
        if self._chars > MAX_SOURCE_CHARS:
            raise InvalidNotebook(f"the sources exceed {MAX_SOURCE_CHARS} characters")
        return source

    def _metadata(self, raw: object, name: str) -> dict[str, Any]:
        if not isinstance(raw, dict):
            if raw is not None:
                self._warn(f"the metadata of {name} are no object and are left out")
            return {}
        if depth_and_buffers(raw)[0] > MAX_DEPTH:
            raise InvalidNotebook(f"the metadata of {name} nest deeper than {MAX_DEPTH}")
        return dict(raw)


def _parse_json(data: bytes) -> Any:
    if not data.strip():
        raise InvalidNotebook("the file is empty")
    try:
        return msgspec.json.decode(data.removeprefix(_BOM))
    except (ValueError, RecursionError):  # not only its own errors: invalid UTF-8 is a UnicodeDecodeError
        pass
    try:
        # Slower and more tolerant: NaN, surrogates, UTF-16.
        return _repaired(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise InvalidNotebook(f"the file is not JSON: {error}") from error


def _repaired(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_repaired(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): _repaired(item) for key, item in value.items()}
    return value


def _converted(data: bytes) -> dict[str, Any]:
    """A file of an old major version as nbformat 4, by nbformat."""
    try:
        parsed = read_any_version(data.decode("utf-8-sig"))  # type: ignore[no-untyped-call]  # nbformat has no types
        converted = convert(parsed, 4)  # type: ignore[no-untyped-call]  # nbformat has no types
    except Exception as error:  # the converter trusts the file: whatever it raises, the file is at fault
        raise InvalidNotebook(f"the file has an old format that can't be converted: {error!r}") from error
    repaired: dict[str, Any] = _repaired(converted)
    return repaired


def _joined(raw: object) -> str:
    """A multi-line string as one."""
    if isinstance(raw, list):
        return "".join(line for line in raw if isinstance(line, str))
    return raw if isinstance(raw, str) else ""


def _mime_value(mime: str, raw: Any) -> Any:
    if isinstance(raw, list) and not _is_json(mime) and all(isinstance(line, str) for line in raw):
        return "".join(raw)
    return raw


def _is_json(mime: str) -> bool:
    """Whether nbformat takes any JSON value under this type, and never splits it into lines."""
    return mime == JSON or (mime.startswith("application/") and mime.endswith("+json"))


def _cell_type(raw: object) -> CellType:
    return "code" if raw == "code" else "markdown" if raw == "markdown" else "raw"


def _count(raw: object) -> int | None:
    return raw if type(raw) is int and 0 <= raw < 2**53 else None


def _rendered_cell(cell: SavedCell) -> dict[str, Any]:
    kind = _cell_type(cell.cell_type)
    rendered: dict[str, Any] = {
        "cell_type": kind,
        "id": cell.cell_id
        if _CELL_ID.fullmatch(cell.cell_id)
        else f"cell-{sha256(cell.cell_id.encode()).hexdigest()[:16]}",
        "metadata": {key: value for key, value in cell.metadata.items() if key != "trusted"},
        "source": cell.source.splitlines(keepends=True),
    }
    if kind == "code":
        rendered["execution_count"] = _count(cell.execution_count)
        rendered["outputs"] = [_rendered_output(output) for output in cell.outputs]
    elif cell.attachments:
        rendered["attachments"] = {name: _split_bundle(bundle) for name, bundle in cell.attachments.items()}
    return rendered


def _rendered_output(output: dict[str, Any]) -> dict[str, Any]:
    if "data" in output:
        output = {**output, "data": _split_bundle(output["data"])}
        if output["output_type"] == "execute_result":
            output["execution_count"] = _count(output.get("execution_count"))
    elif output["output_type"] == "stream":
        output = {**output, "text": output["text"].splitlines(keepends=True)}
    return output


def _split_bundle(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """Text in lines, for the sake of version control; base64 and JSON as they are (nbformat's rule)."""
    return {mime: _split(mime, value) for mime, value in bundle.items()}


def _split(mime: str, value: Any) -> Any:
    if _is_json(mime):
        return value
    if not isinstance(value, str):  # the format has text here; an attachment may have been anything
        value = json.dumps(value)
    if mime.startswith("text/") or mime in ("application/javascript", "image/svg+xml"):
        return value.splitlines(keepends=True)
    return value


def _make_valid(content: dict[str, Any]) -> None:
    """Takes out the metadata that the schema forbids.

    Raises:
        InvalidNotebook: Something else is wrong.
    """
    if _first_error(content) is None:
        return
    _strip_metadata({**content, "cells": []}, content["metadata"], ())
    for cell in content["cells"]:
        _strip_metadata({**content, "metadata": {}, "cells": [cell]}, cell["metadata"], ("cells", 0))
    error = _first_error(content)
    if error is not None:
        raise InvalidNotebook(f"the notebook is not valid: {str(error)[:500]}")


def _strip_metadata(content: dict[str, Any], metadata: dict[str, Any], path: tuple[str | int, ...]) -> None:
    for _ in range(_MAX_REPAIRS):
        error = _first_error(content)
        if error is None:
            return
        where = tuple(error.absolute_path)
        if where[: len(path) + 1] != (*path, "metadata") or len(where) < len(path) + 2:
            return
        metadata.pop(where[len(path) + 1], None)


def _first_error(content: dict[str, Any]) -> Any:
    try:
        nbformat.validate(content, version=4, version_minor=5)
    except nbformat.ValidationError as error:
        return error
    return None


def _json_text(content: object) -> str:
    arguments: dict[str, Any] = {"ensure_ascii": False, "indent": 1, "separators": (",", ": "), "sort_keys": True}
    try:
        return json.dumps(content, allow_nan=False, **arguments)
    except ValueError:
        return json.dumps(finite(content), allow_nan=False, **arguments)
