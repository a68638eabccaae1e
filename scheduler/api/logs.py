"""The log of a service: one line for each thing that happened, as JSON unless a terminal reads it.

The only place that configures logging. Lines of all libraries go through it, and each has the job that it is about, if any.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from scheduler import telemetry

_QUIET = ("httpx", "httpcore", "asyncio", "urllib3", "opentelemetry", "filelock", "botocore", "aiobotocore", "fsspec")


def configure(stream: TextIO = sys.stderr, level: str = "info") -> None:
    """Log to a stream, from a level on."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        _about,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    shown: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if stream.isatty()
        else [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=str)]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *shown],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _about(logger: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the job, and whatever else the line is about."""
    for name, value in telemetry.facts().items():
        line.setdefault(name, value)
    return line
