"""One JSON object a line on standard output, from our own code and from libraries alike.

Context such as the request id is bound once at the entry point with
`structlog.contextvars.bound_contextvars` and then stands in every line below it.

A library's line goes through `logging`; one of ours does not: its records cost more than all else of a line.
"""

import logging
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, TextIO

import msgspec
import structlog

_NOISY = ("httpx2", "httpcore2", "asyncio", "kopf", "celery", "kombu", "uvicorn.access")

_SHARED: tuple[Any, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
_in_full: Final = structlog.processors.JSONRenderer()
_encoder: Final = msgspec.json.Encoder()


def configure_logging(process: str, level: str = "info") -> None:
    """Send every log record of this process to standard output as JSON, tagged with its name."""
    chosen = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    tag = _tagger(process)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_formatter(tag))
    structlog.configure(
        processors=[*_SHARED, tag, structlog.processors.format_exc_info, rendered],
        wrapper_class=structlog.make_filtering_bound_logger(chosen),
        logger_factory=lambda *names: _Lines(handler, *names),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(chosen)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(chosen, logging.WARNING))


class _Lines:
    """What a logger of ours writes to: the handler's stream, under its lock."""

    def __init__(self, handler: "logging.StreamHandler[TextIO]", name: str = "everesthood") -> None:
        self.name = name
        self._handler = handler

    def info(self, line: str) -> None:
        try:
            with self._handler.lock or threading.RLock():
                self._handler.stream.write(line + "\n")
                self._handler.stream.flush()
        except (OSError, ValueError):
            return  # nobody reads any more, and no request fails for that

    debug = warning = warn = error = err = exception = critical = fatal = info


def rendered(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    """Return an event as a line."""
    # Only of plain values: of others the quick encoder would show more than their repr() does.
    if _PLAIN.issuperset(map(type, event.values())):
        try:
            return _encoder.encode(event).decode()
        except UnicodeEncodeError:
            pass
    return str(_in_full(None, "", event))


def _tagger(process: str) -> Callable[..., Mapping[str, Any]]:
    def tag(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        event["process"] = process
        return event

    return tag


def _formatter(tag: Callable[..., Mapping[str, Any]]) -> structlog.stdlib.ProcessorFormatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=list(_SHARED),
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            tag,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )
