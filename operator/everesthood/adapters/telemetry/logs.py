"""One JSON object a line on standard output, from our own code and from libraries alike.

Context such as the request id is bound once at the entry point with
`structlog.contextvars.bound_contextvars` and then stands in every line below it.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

_NOISY = ("httpx2", "httpcore2", "asyncio", "kopf", "celery", "kombu", "uvicorn.access")

_SHARED: tuple[Any, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def configure_logging(process: str, level: str = "info") -> None:
    """Send every log record of this process to standard output as JSON, tagged with its name."""
    chosen = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(chosen),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_formatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(chosen)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(chosen, logging.WARNING))


def _formatter(process: str) -> structlog.stdlib.ProcessorFormatter:
    def tag(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        return {**event, "process": process}

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=list(_SHARED),
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            tag,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )
