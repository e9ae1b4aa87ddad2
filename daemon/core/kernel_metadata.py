"""Which kernel a notebook file names: what Jupyter's front ends write into its metadata. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from sync.core.json_text import TooDeep, encode_json

# A kernel's word about itself; real ones take some 300 bytes.
MAX_LANGUAGE_INFO_BYTES: Final = 64 * 1024


def with_kernel(
    metadata: Mapping[str, Any],
    *,
    name: str,
    display_name: str,
    language: str,
    language_info: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A notebook's metadata with `kernelspec`, and `language_info` where a kernel gave it.

    Where the metadata name the same kernel already, its keys stay as they are, and what `language_info` has beside.

    Args:
        metadata: as the notebook document has them.
        name: the kernelspec's.
        display_name: the kernelspec's, for people.
        language: the kernelspec's.
        language_info: of the kernel's kernel_info_reply; of one that is too big, or nests too deeply, the name is enough.
    """
    kernelspec, info = _map(metadata, "kernelspec"), _map(metadata, "language_info")
    named = kernelspec.get("name")
    if not isinstance(named, str) or named.lower() != name.lower():
        kernelspec = info = {}
    ours = {"name": name, "display_name": display_name, "language": language}
    completed = {key: value for key, value in metadata.items() if key != "language_info"}
    completed["kernelspec"] = {**ours, **kernelspec}
    if language_info is not None:
        said = language_info.get("name")
        own = said if isinstance(said, str) and said else language
        completed["language_info"] = {**info, **(language_info if _fits(language_info) else {}), "name": own}
    return completed


def _map(metadata: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = metadata.get(key)
    return value if isinstance(value, Mapping) else {}


def _fits(language_info: Mapping[str, Any]) -> bool:
    try:
        return len(encode_json(dict(language_info))) <= MAX_LANGUAGE_INFO_BYTES
    except TooDeep:
        return False
