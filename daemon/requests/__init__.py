"""The requests that peers make of a room: one table of methods, checked parameters, and who may call what."""

from daemon.requests import cells, files, kernels, widgets
from daemon.requests.methods import Call, Later, Method, Result, decode_params

__all__ = ["METHODS", "Call", "Later", "Method", "Result", "decode_params"]

METHODS: dict[str, Method] = cells.METHODS | kernels.METHODS | widgets.METHODS | files.METHODS
