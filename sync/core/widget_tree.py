"""Widgets as a runtime document has them, and how they refer to each other.

A trait that is another widget is the text `IPY_MODEL_<comm id>`, alone (a layout) or within a list or map (the children of
a box). Nothing keeps widgets from referring in circles, or to what is gone.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sync.core.binding import Kind, Reader
from sync.core.plain import read_found
from sync.core.prepared import Value
from sync.core.runtime_reading import entry_ids, find
from sync.core.value_reading import InvalidValue, blob_hash, decode_value

# The target of the comms that are widgets.
WIDGET_TARGET = "jupyter.widget"

REFERENCE_PREFIX = "IPY_MODEL_"
_REFERENCE = re.compile(REFERENCE_PREFIX + "(.+)", re.DOTALL)
# All that an entry has but its outputs, which may be thousands.
_FIELDS = ("target_name", "model_module", "model_name", "order", "state")


def read_widget(reader: Reader, comm_id: str) -> dict[str, Any] | None:
    """`comms[comm_id]` without its outputs; None if there is no such comm, or it is no widget."""
    found = find(reader, "comms", comm_id)
    if found is None or found[0] is not Kind.MAP:
        return None
    fields = {name: reader.get(found[1], name) for name in _FIELDS}
    entry = {name: read_found(reader, field) for name, field in fields.items() if field is not None}
    return entry if entry.get("target_name") == WIDGET_TARGET and isinstance(entry.get("state"), dict) else None


def read_widgets(reader: Reader) -> dict[str, dict[str, Any]]:
    """The entries of all widgets, without their outputs, in the order in which they were opened; 0.1 ms for each."""
    entries = {comm_id: entry for comm_id in entry_ids(reader, "comms") if (entry := read_widget(reader, comm_id))}

    def order(comm_id: str) -> tuple[float, str]:
        number = entries[comm_id].get("order")
        return (number if isinstance(number, int | float) else float("inf"), comm_id)

    return {comm_id: entries[comm_id] for comm_id in sorted(entries, key=order)}


def reference(comm_id: str) -> str:
    """What stands in a trait that is this widget."""
    return REFERENCE_PREFIX + comm_id


def references_within(decoded: Any) -> Iterator[str]:
    """The comm ids that a trait's decoded value refers to, in their order; repeated as they occur."""
    pending = [decoded]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            if found := _REFERENCE.fullmatch(item):
                yield found[1]
        elif isinstance(item, dict):
            pending.extend(reversed(item.values()))
        elif isinstance(item, list):
            pending.extend(reversed(item))


def references_of(value: Value, blobs: Mapping[str, bytes]) -> list[str]:
    """The comm ids that a trait refers to, in their order.

    Args:
        value: as the document has it.
        blobs: bytes by their hash. What a blob that is not there refers to is not known: nothing.
    """
    if isinstance(value, str):
        return list(references_within(value))
    if not isinstance(value, Mapping):
        return []
    text = value.get("json")
    data = text if isinstance(text, str) else blobs.get(blob_hash(value) or "", b"")
    # Most lists and maps name no widget and are not parsed.
    if (REFERENCE_PREFIX if isinstance(data, str) else REFERENCE_PREFIX.encode()) not in data:  # type: ignore[operator]
        return []
    try:
        return list(references_within(decode_value({**value, "buffers": None}, blobs.__getitem__)))
    except (InvalidValue, LookupError):
        return []


def find_roots(references: Mapping[str, Iterable[str]]) -> list[str]:
    """Those of the widgets that no other refers to.

    Args:
        references: what each widget refers to, by its comm id.
    """
    referred = {other for comm_id, others in references.items() for other in others if other != comm_id}
    return [comm_id for comm_id in references if comm_id not in referred]


def closure(roots: Iterable[str], references: Callable[[str], Iterable[str]]) -> set[str]:
    """All that is reached from `roots`, those included."""
    found: set[str] = set()
    pending = list(roots)
    while pending:
        comm_id = pending.pop()
        if comm_id not in found:
            found.add(comm_id)
            pending.extend(references(comm_id))
    return found
