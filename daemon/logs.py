"""Logs: one line a record on stderr, for people or for programs; never a token, never a source.

A task binds what it works for (`room`, `peer`, `execution_id`) to its context, and the tasks that it starts inherit it; so
each record says whose it is, those of libraries too.
"""

import logging
import sys
from typing import Literal, TypeAlias

import structlog

from daemon.core.control_characters import escaped

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

# Exceptions have lines of their own; all else may be what a peer called itself.
_LINES = ("event", "exception", "stack")


def configure_logging(log_format: Literal["text", "json"], level: LogLevel = "info") -> None:
    """Sends our records, and those of the libraries, to stderr in one format."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _escape,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "httpcore", "hypercorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _escape(logger: object, name: str, record: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Writes control characters of values as escapes."""
    for key, value in record.items():
        if isinstance(value, str) and key not in _LINES:
            record[key] = escaped(value)
    return record
