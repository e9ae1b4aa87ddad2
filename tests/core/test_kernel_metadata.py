"""Which kernel a file names: what Jupyter's front ends write, beside what people wrote."""

import json
from typing import Any

import nbformat
import pytest

from daemon.core.kernel_metadata import MAX_LANGUAGE_INFO_BYTES, with_kernel
from daemon.core.notebook_file import render_notebook
from daemon.core.notebook_model import SavedNotebook

SPEC = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
INFO = {"name": "python", "version": "3.11.7", "codemirror_mode": {"name": "ipython", "version": 3}}


def completed(metadata: dict[str, Any], language_info: dict[str, Any] | None = INFO) -> dict[str, Any]:
    return with_kernel(metadata, **SPEC, language_info=language_info)


def test_a_file_that_names_no_kernel_names_the_one_that_ran() -> None:
    assert completed({"title": "mine"}) == {"title": "mine", "kernelspec": SPEC, "language_info": INFO}
    assert completed({}, None) == {"kernelspec": SPEC}


def test_where_the_same_kernel_is_named_its_keys_stay() -> None:
    mine = {"name": "Python3", "display_name": "My own", "env": "x"}
    found = completed({"kernelspec": mine, "language_info": {"name": "python", "version": "2.7", "mine": 1}})
    assert found["kernelspec"] == {**mine, "language": "python"}
    assert found["language_info"] == {**INFO, "mine": 1}


def test_where_another_is_named_nothing_of_it_is_left() -> None:
    found = completed({"kernelspec": {"name": "ir", "env": "x"}, "language_info": {"name": "R", "mine": 1}})
    assert found == {"kernelspec": SPEC, "language_info": INFO}


@pytest.mark.parametrize("odd", [None, 5, [], "python3", {"name": None}, {"name": {}}])
def test_what_is_no_kernel_is_none(odd: Any) -> None:
    assert completed({"kernelspec": odd, "language_info": odd}) == {"kernelspec": SPEC, "language_info": INFO}


def deep(levels: int) -> Any:
    return 1 if levels == 0 else {"x": deep(levels - 1)}


@pytest.mark.parametrize(
    "said", [{}, {"name": ""}, {"name": 5}, {"x": "y" * MAX_LANGUAGE_INFO_BYTES}, {"x": deep(100)}, {"x": [deep(100)]}]
)
def test_a_kernel_that_says_too_little_or_too_much_has_the_name_of_its_kernelspecs_language(
    said: dict[str, Any],
) -> None:
    assert completed({}, said)["language_info"] == {"name": "python"}


@pytest.mark.parametrize("said", [INFO, {"version": 3, "file_extension": 7}, {"x": float("inf")}, {"é": "\ud800"}])
def test_whatever_a_kernel_says_the_file_is_valid(said: dict[str, Any]) -> None:
    saved = json.loads(render_notebook(SavedNotebook(metadata=completed({}, said))))
    nbformat.validate(saved)
    assert saved["metadata"]["kernelspec"] == SPEC
