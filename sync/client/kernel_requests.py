"""What a notebook asks of its kernel."""

from collections.abc import Mapping
from typing import Any

from sync.client.connection import Connection
from sync.client.errors import RequestFailed
from sync.core.jsonrpc import ErrorCode


class KernelRequests:
    """The part of a notebook that talks with the kernel. All of it raises RequestFailed and ConnectionLost."""

    _connection: Connection

    @property
    def kernel(self) -> dict[str, Any]:
        """`kernel` of the runtime document: status, name, language, error?, input_request?."""
        raise NotImplementedError

    async def launch(self, name: str | None = None) -> dict[str, Any]:
        """Starts a kernel, if that one does not run yet; returns its {name, language}, when it is ready."""
        params = {} if name is None else {"kernel_name": name}
        return _content(await self._connection.request("launch_kernel", params))

    async def interrupt(self) -> str | None:
        """Interrupts what runs; returns the id of the execution that it met, if any."""
        execution_id = (await self._ask("interrupt", {})).get("execution_id")
        return None if execution_id is None else str(execution_id)

    async def restart(self) -> None:
        """Restarts the kernel; returns when it is ready."""
        await self._ask("restart_kernel", {})

    async def shutdown(self) -> None:
        """Ends the kernel; returns when it is gone."""
        await self._ask("shutdown_kernel", {})

    async def complete(self, code: str, cursor_pos: int | None = None) -> dict[str, Any]:
        """What could stand at the cursor (in code points; the end by default): the content of Jupyter's reply."""
        return await self._ask(
            "complete", {"code": code, "cursor_pos": len(code) if cursor_pos is None else cursor_pos}
        )

    async def inspect(self, code: str, cursor_pos: int | None = None, detail_level: int = 0) -> dict[str, Any]:
        """What is known of the name at the cursor: the content of Jupyter's reply."""
        cursor_pos = len(code) if cursor_pos is None else cursor_pos
        return await self._ask("inspect", {"code": code, "cursor_pos": cursor_pos, "detail_level": detail_level})

    async def is_complete(self, code: str) -> dict[str, Any]:
        """Whether the code can be run as it is: the content of Jupyter's reply."""
        return await self._ask("is_complete", {"code": code, "cursor_pos": len(code)})

    async def history(self, n: int = 100, pattern: str | None = None, *, unique: bool = False) -> list[Any]:
        """The kernel's last inputs, as [session, line, source]; with a pattern, those that it fits."""
        params: dict[str, Any] = {"n": n, "unique": unique}
        if pattern is not None:
            params["pattern"] = pattern
        history = (await self._ask("history", params)).get("history")
        return history if isinstance(history, list) else []

    async def input_reply(self, value: str) -> None:
        """Answers the prompt that `kernel["input_request"]` shows.

        Raises:
            RequestFailed: no_input_pending; somebody else may have answered.
        """
        request = self.kernel.get("input_request")
        request_id = request.get("request_id") if isinstance(request, dict) else None
        if not isinstance(request_id, str):
            code = ErrorCode.NO_INPUT_PENDING
            raise RequestFailed(int(code), code.reason, {}, "the kernel does not wait for input")
        await self._ask("input_reply", {"request_id": request_id, "value": value})

    async def _ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return _content(await self._connection.request(method, params, ordered=False))


def _content(result: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in ("runtime", "heads", "notebook_heads")}
