"""Which kernels are installed, as jupyter_client finds them. Blocking: a first call takes about 100 ms."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import structlog
from jupyter_client.kernelspec import KernelSpecManager

log = structlog.get_logger(__name__)


class NoSuchKernel(Exception):
    """No kernelspec of this name is installed, or it cannot be read.

    Attributes:
        name: the name that was asked for.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"kernel {name[:_SHOWN_CHARS]!r}: {why}")
        self.name = name


# A name may be as long as a request.
_SHOWN_CHARS = 100


@dataclass(frozen=True)
class KernelSpec:
    """How to start a kernel, as its kernel.json says.

    Attributes:
        argv: the command, with `{connection_file}`, `{resource_dir}` and `{prefix}` to be filled in.
        env: added to the environment; `${NAME}` in a value stands for the environment's own.
        interrupt_mode: "signal" (SIGINT to the process group) or "message" (interrupt_request on control).
    """

    name: str
    display_name: str
    language: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    interrupt_mode: str = "signal"
    resource_dir: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


class _KernelJson(msgspec.Struct, kw_only=True):
    """kernel.json; real ones have further keys, which jupyter_client's own class warns of."""

    argv: list[str]
    display_name: str = ""
    language: str = ""
    env: dict[str, str] = {}
    interrupt_mode: Literal["signal", "message"] = "signal"
    metadata: dict[str, Any] = {}


def find_kernelspec(name: str) -> KernelSpec:
    """Looks up one kernelspec.

    Raises:
        NoSuchKernel: there is none of this name, or it cannot be read.
    """
    # Names are folded as jupyter_client does, for file systems that do.
    folded = name.lower()
    try:
        folders = KernelSpecManager().find_kernel_specs()
    except OSError as error:  # a folder of them that may not be read, or is gone meanwhile
        raise NoSuchKernel(name, f"the kernelspecs cannot be read: {error}") from error
    folder = folders.get(folded)
    if folder is None:
        raise NoSuchKernel(name, f"it is not installed; there are: {', '.join(sorted(folders)) or 'none'}")
    return _read(folded, folder)


def list_kernelspecs() -> dict[str, KernelSpec]:
    """Returns all readable kernelspecs by name."""
    specs = {}
    for name, folder in KernelSpecManager().find_kernel_specs().items():
        try:
            specs[name] = _read(name, folder)
        except NoSuchKernel as error:
            log.warning("broken kernelspec", why=str(error), folder=folder)
    return specs


def _read(name: str, folder: str) -> KernelSpec:
    try:
        spec = msgspec.json.decode((Path(folder) / "kernel.json").read_bytes(), type=_KernelJson)
    except FileNotFoundError:
        # The kernel of this very Python is there without a file.
        spec = msgspec.convert(KernelSpecManager().get_kernel_spec(name).to_dict(), _KernelJson)
    except (OSError, ValueError) as error:
        raise NoSuchKernel(name, f"its kernel.json cannot be read: {error}") from error
    return KernelSpec(
        name=name,
        display_name=spec.display_name or name,
        language=spec.language,
        argv=tuple(spec.argv),
        env=spec.env,
        interrupt_mode=spec.interrupt_mode,
        resource_dir=folder,
        metadata=spec.metadata,
    )
