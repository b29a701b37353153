"""`everesthood web`: serves the REST API until told to stop."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn
import uvloop

from everesthood.adapters.telemetry import collect_seldom, configure_logging, serve_health
from everesthood.bootstrap.web import web_parts
from everesthood.domain.errors import EveresthoodError
from everesthood.entrypoints.web.app import build_app
from everesthood.entrypoints.web.parts import Parts
from everesthood.entrypoints.web.protocol import Protocol
from everesthood.settings import Settings
from everesthood.usecases.wait_for_record import wait_for_record

_GRACE_SECONDS = 20
_KEEP_ALIVE_SECONDS = 75
_CONCURRENT = 5000
_log = structlog.get_logger(__name__)


class Server(uvicorn.Server):
    """Leaves signals to us: uvicorn's own way ends the process before anything is closed."""

    def __init__(self, config: uvicorn.Config, closing: asyncio.Event) -> None:
        """Set `closing` when told to stop."""
        super().__init__(config)
        self._closing = closing

    def stop(self) -> None:
        """End soon."""
        self._closing.set()
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield


def make_server(parts: Parts, *, port: int, host: str = "") -> Server:
    """Return the server, not yet started."""
    config = uvicorn.Config(
        build_app(parts),
        host=host or "0.0.0.0",  # noqa: S104 - a pod serves its Service
        port=port,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONCURRENT,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    return Server(config, parts.streams.closing)


async def serve(server: Server) -> None:
    """Serve until SIGTERM: then open streams end at once, and requests have their time."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.stop)
    await server.serve()


async def run(settings: Settings) -> None:
    """Wait for the record, then serve. A record that goes away later makes answers 503, not us unready."""
    waits_for = ["the record"]
    ready = {"record": lambda: f"waits for {waits_for[0]}" if waits_for else None}
    health = await serve_health(settings.metrics_port, live={}, ready=ready)
    async with health, web_parts(settings) as wired:
        await wait_for_record(wired.check_schema)
        waits_for.clear()
        parts = Parts(
            authorizer=wired.authorizer,
            runs=wired.runs,
            control=wired.control,
            bell=wired.bell,
            request_run=wired.request_run,
        )
        server = make_server(parts, port=settings.http_port, host=settings.http_host)
        collect_seldom()
        await serve(server)


def main() -> None:
    """Start, or end with one sentence that says why not."""
    settings = Settings.read()
    configure_logging("web", settings.log_level)
    try:
        uvloop.run(run(settings))
    except EveresthoodError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
