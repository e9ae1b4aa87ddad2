"""Where a kernel listens, and with which key: the content of a connection file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Transport: TypeAlias = Literal["ipc", "tcp"]
Port: TypeAlias = Literal["shell", "iopub", "stdin", "control", "hb"]
PORTS: Final[tuple[Port, ...]] = ("shell", "iopub", "stdin", "control", "hb")

# sun_path holds 104 bytes on macOS and 108 on Linux, the closing NUL included.
MAX_IPC_PATH_BYTES: Final = 103


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """One kernel's endpoints.

    Attributes:
        ip: an address for tcp; for ipc the path of the sockets, to which "-" and the port are appended.
        ports: by name; for ipc any numbers that differ.
        key: of the HMAC-SHA256 signatures, as text.
    """

    transport: Transport
    ip: str
    ports: dict[Port, int]
    key: str
    kernel_name: str

    def endpoint(self, port: Port) -> str:
        """The ZMQ endpoint of one of the kernel's sockets."""
        return f"{self.transport}://{self.ip}{'-' if self.transport == 'ipc' else ':'}{self.ports[port]}"

    def to_json(self) -> str:
        """The text of the connection file."""
        return json.dumps(
            {
                "transport": self.transport,
                "ip": self.ip,
                **{f"{name}_port": number for name, number in self.ports.items()},
                "key": self.key,
                "signature_scheme": "hmac-sha256",
                "kernel_name": self.kernel_name,
            }
        )


def ipc_connection(prefix: str, key: str, kernel_name: str) -> ConnectionInfo | None:
    """Endpoints as sockets in the file system; None if a path would be too long for one."""
    if len(f"{prefix}-{len(PORTS)}".encode()) > MAX_IPC_PATH_BYTES:
        return None
    ports: dict[Port, int] = {name: number for number, name in enumerate(PORTS, 1)}
    return ConnectionInfo("ipc", prefix, ports, key, kernel_name)


def takes_ipc(argv: Sequence[str]) -> bool:
    """Whether this kernel is known to bind ipc sockets: ipykernel does; xeus-python does not start with them."""
    return any("ipykernel" in argument for argument in argv)
