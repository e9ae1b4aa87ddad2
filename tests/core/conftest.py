"""What tests of widgets share."""

import pytest

from tests.fakes.widget_kernel import Notebook


@pytest.fixture(params=[True, False], ids=["echo", "no echo"])
def slider(request: pytest.FixtureRequest) -> Notebook:
    """A slider `s` from 0 to 100 that the document has, and a kernel that is idle."""
    notebook = Notebook(echo=request.param)
    notebook.widget("s", maximum=100)
    return notebook
