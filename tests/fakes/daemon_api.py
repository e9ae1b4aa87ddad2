"""A daemon behind HTTP that remembers what it was asked."""

from pathlib import Path
from typing import Any

from daemon.core.access import AccessPolicy
from daemon.http_app import ApiError, NotebookInfo
from sync.blobs import BlobInfo

PORT = 8889
EDITOR = {"Authorization": "Bearer edit-me"}
VIEWER = {"Authorization": "Bearer look-only"}
ALLOWED_ORIGIN = "https://example.org"


def policy(port: int = PORT) -> AccessPolicy:
    return AccessPolicy(port=port, token="edit-me", viewer_token="look-only", allow_origins=frozenset({ALLOWED_ORIGIN}))


class FakeBlobs:
    def __init__(self) -> None:
        self.stored: dict[str, list[BlobInfo]] = {}

    def put(self, path: Path, digest: str, data: bytes, *media_types: str) -> None:
        path.write_bytes(data)
        self.stored[digest] = [BlobInfo(path, len(data), media_type, media_types) for media_type in media_types]

    async def open(self, blob_hash: str, media_type: str | None, /) -> BlobInfo | None:
        blobs = self.stored.get(blob_hash, [])
        return next((blob for blob in blobs if media_type in (None, blob.media_type)), None)


class FakeApi:
    version = "1.2.3"

    def __init__(self) -> None:
        self.blobs = FakeBlobs()
        self.asked: list[tuple[Any, ...]] = []
        self.open_paths: list[str] = []
        self.file = b"{}"

    def info(self, path: str) -> NotebookInfo:
        return NotebookInfo(f"id-{path}", path, f"automerge:{path}", f"automerge:run-{path}", "idle", "python3", 2)

    async def open_notebook(self, path: str, *, create: bool, kernel_name: str | None) -> tuple[NotebookInfo, bool]:
        self.asked.append(("open", path, create, kernel_name))
        if path.startswith("/"):
            raise ApiError(403, "outside_root", f"{path} is not inside the root")
        if path == "crash.ipynb":
            raise RuntimeError("a secret of the inside")
        created = create and path not in self.open_paths
        self.open_paths.append(path)
        return self.info(path), created

    def notebooks(self) -> list[NotebookInfo]:
        return [self.info(path) for path in dict.fromkeys(self.open_paths)]

    async def close_notebook(self, notebook_id: str, *, save: bool, peer_id: str | None) -> None:
        self.asked.append(("close", notebook_id, *([] if save else [peer_id])))
        if notebook_id not in [info.id for info in self.notebooks()]:
            raise ApiError(404, "not_found", "no such notebook")

    async def notebook_file(self, notebook_id: str) -> bytes:
        self.asked.append(("file", notebook_id))
        return self.file

    async def kernelspecs(self) -> dict[str, Any]:
        return {"python3": {"language": "python"}}

    def status(self) -> dict[str, Any]:
        return {"version": self.version, "notebooks": []}

    def metrics(self) -> bytes:
        return b"notebookd_peers 3.0\n"
