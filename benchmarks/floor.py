"""The floor: jupyter_client on the same kernelspec, over ipc as ours, in a process of its own."""

from queue import Empty
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from benchmarks.workers import now, serve
from kernel_bridge.core.send_queue import lift_request

# The longest step is the kernel's start.
PATIENCE = 60.0


class Floor:
    """One kernel and its client."""

    def __init__(self) -> None:
        self._manager = KernelManager(kernel_name="python3", transport="ipc")

    def start(self, directory: str) -> None:
        """Launches the kernel and waits until it answers; its queues have no limit from then on.

        With the limits of 1 000 messages that ipykernel and ZMQ have by default it would lose half of a flood, and so be
        faster and no floor.
        """
        # For ipc, the sockets are made beside this file, and their paths must be short.
        self._manager.connection_file = f"{directory}/floor.json"
        self._manager.start_kernel()
        self._client: BlockingKernelClient = self._manager.client()
        self._client.context.rcvhwm = 0  # for the sockets that are made next
        self._client.start_channels()
        self._client.wait_for_ready(timeout=PATIENCE)
        content = lift_request()
        message = self._client.session.msg("execute_request", content)
        self._client.shell_channel.send(message)
        reply = self._client.get_shell_msg(timeout=PATIENCE)
        while reply["parent_header"].get("msg_id") != message["header"]["msg_id"]:
            reply = self._client.get_shell_msg(timeout=PATIENCE)
        (limit,) = reply["content"]["user_expressions"].values()
        assert limit["data"]["text/plain"] == "0", limit
        self._drain()

    def stop(self) -> None:
        """Ends the kernel, if there is one."""
        if self._manager.has_kernel:
            self._client.stop_channels()
            self._manager.shutdown_kernel(now=True)

    def execute(self, code: str, count: int) -> list[float]:
        """Seconds from sending to reply and idle, for each of `count` executions one after another."""
        samples = []
        for _ in range(count):
            start = now()
            msg_id = self._client.execute(code)
            result = self._until_idle(msg_id, lambda message: message["msg_type"] == "execute_result")
            samples.append(now() - start)
            assert len(result) == 1
        return samples

    def prints(self, code: str, lines: int) -> dict[str, float]:
        """Seconds from sending to the message that ends the last line, and to reply and idle."""
        seen = 0
        end = 0.0

        def is_text(message: dict[str, Any]) -> bool:
            nonlocal seen, end
            if message["msg_type"] != "stream":
                return False
            seen += message["content"]["text"].count("\n")
            if seen == lines and not end:
                end = now()
            return True

        start = now()
        self._until_idle(self._client.execute(code), is_text)
        idle = now()
        assert seen == lines, f"{seen} of {lines} lines"
        return {"seconds": end - start, "idle": idle - start}

    def flood(self, code: str, msg_type: str, count: int) -> dict[str, float]:
        """Seconds from sending to the last of `count` messages of a type, and to reply and idle."""
        end = 0.0

        def is_wanted(message: dict[str, Any]) -> bool:
            nonlocal end
            if message["msg_type"] != msg_type:
                return False
            end = now()
            return True

        start = now()
        found = self._until_idle(self._client.execute(code), is_wanted)
        idle = now()
        assert len(found) == count, len(found)
        return {"seconds": end - start, "idle": idle - start}

    def run(self, code: str) -> None:
        """Executes code that is not measured."""
        self._until_idle(self._client.execute(code), lambda message: False)

    def _until_idle(self, msg_id: str, wanted: Any) -> list[dict[str, Any]]:
        found = []
        while True:
            message = self._client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            if wanted(message):
                found.append(message)
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
        reply = self._client.get_shell_msg(timeout=PATIENCE)
        assert reply["parent_header"]["msg_id"] == msg_id
        assert reply["content"]["status"] == "ok", reply["content"]
        return found

    def _drain(self) -> None:
        try:
            while True:
                self._client.get_iopub_msg(timeout=0.2)
        except Empty:
            return


if __name__ == "__main__":
    floor = Floor()
    commands = (floor.start, floor.execute, floor.prints, floor.flood, floor.run)
    try:
        serve({command.__name__: command for command in commands})
    finally:
        floor.stop()
