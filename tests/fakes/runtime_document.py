"""A runtime document that is written as the doc-writer writes it, and read as a peer reads it; blobs in a dict."""

from collections.abc import Sequence
from typing import Any

from sync.core.binding import Replica
from sync.core.mutations import Mutation
from sync.core.runtime_reading import read_runtime
from sync.core.runtime_schema import RuntimeSchema
from sync.core.value_reading import decode_manifest, decode_state
from sync.core.values import prepare


class RuntimeDocument:
    """Commits mutations and shows what stands there then, values decoded."""

    def __init__(self) -> None:
        self.replica = Replica()
        self.blobs: dict[str, bytes] = {}
        self._schema = RuntimeSchema()
        with self.replica.transaction() as tx:
            self._schema.create(tx, notebook_url="automerge:x", path="a.ipynb", kernel_name="python3")

    def commit(self, mutations: Sequence[Mutation]) -> int:
        """Applies a batch in one transaction; returns how many mutations were left out."""
        prepared, blobs = prepare(mutations)
        self.blobs.update((blob.hash, blob.data) for blob in blobs)
        with self.replica.transaction() as tx:
            return self._schema.apply(tx, prepared)

    @property
    def plain(self) -> dict[str, Any]:
        """The document as it stands."""
        return read_runtime(self.replica)

    def comms(self) -> dict[str, dict[str, Any]]:
        """`comms` with decoded state, and outputs as in a notebook file."""
        return {comm_id: self._comm(entry) for comm_id, entry in self.plain["comms"].items()}

    def state(self, comm_id: str) -> dict[str, Any]:
        """The decoded state of one comm."""
        return decode_state(self.plain["comms"][comm_id]["state"], self.blobs.__getitem__)

    def outputs(self, kind: str, key: str = "") -> list[dict[str, Any]]:
        """Outputs of a cell, a comm, or the kernel log, as in a notebook file."""
        plain = self.plain
        manifests = plain["kernel_log"] if kind == "kernel_log" else plain[f"{kind}s"][key]["outputs"]
        return self._outputs(manifests)

    def shown(self, kind: str, key: str = "") -> list[Any]:
        """The same, short: the text of a stream or a display, the name of an error."""
        return [short(output) for output in self.outputs(kind, key)]

    def _outputs(self, manifests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [decode_manifest(manifest, self.blobs.__getitem__) for manifest in manifests]

    def _comm(self, entry: dict[str, Any]) -> dict[str, Any]:
        entry = {**entry, "state": decode_state(entry["state"], self.blobs.__getitem__)}
        if "outputs" in entry:
            entry["outputs"] = self._outputs(entry["outputs"])
        return entry


def short(output: dict[str, Any]) -> Any:
    """What a person sees of an output of a notebook file."""
    match output["output_type"]:
        case "stream":
            return output["text"] if output["name"] == "stdout" else (output["name"], output["text"])
        case "error":
            return ("error", output["ename"])
        case _:
            return (output["data"].get("text/plain"),)
