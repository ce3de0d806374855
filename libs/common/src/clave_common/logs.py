"""Logs: a constant event name plus fields, one line each; JSON for machines, colour for a terminal."""

import logging
import sys
from typing import Literal

import structlog


def configure_logs(*, service: str, form: Literal["json", "console"] = "json", level: str = "info") -> None:
    """Send structlog's and the standard library's lines to stderr in one form.

    Args:
        service: Bound to every line.
        form: ``json`` or ``console``.
        level: Lowest level that is written.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(max(number, logging.WARNING))


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Give a module its logger."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(module=name)
    return logger
