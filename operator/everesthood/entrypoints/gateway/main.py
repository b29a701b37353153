"""`everesthood gateway`: serves workers until told to stop."""

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
import uvicorn
import uvloop

from everesthood.adapters.telemetry import collect_seldom, configure_logging, serve_health
from everesthood.bootstrap.gateway import GatewayParts, gateway_parts
from everesthood.domain.errors import EveresthoodError, Unavailable
from everesthood.entrypoints.gateway.app import Gateway
from everesthood.entrypoints.gateway.duties import keep_asking, keep_observing
from everesthood.entrypoints.gateway.routes import Parts, routes
from everesthood.settings import Settings
from everesthood.usecases.wait_for_record import wait_for_record

_GRACE_SECONDS = 20
_KEEP_ALIVE_SECONDS = 75
_CONCURRENT = 20_000
_log = structlog.get_logger(__name__)


class Server(uvicorn.Server):
    """Leaves signals to us: uvicorn's own way ends the process before anything is closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield


def build_server(app: Gateway, *, port: int, host: str = "") -> Server:
    """Return the HTTP server of an application."""
    return Server(
        uvicorn.Config(
            app,
            host=host or "0.0.0.0",  # noqa: S104 - a pod serves its Service
            port=port,
            http="httptools",
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
    )


async def serve(app: Gateway, *, port: int, host: str = "", release: Callable[[], None]) -> None:
    """Serve until SIGTERM; calls under way have their time, those that only wait are released."""
    server = build_server(app, port=port, host=host)

    def stop() -> None:
        server.should_exit = True
        release()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await server.serve()


def build_app(parts: GatewayParts, internal_hosts: frozenset[str]) -> Gateway:
    """Return the application over the wired parts."""
    needed = Parts(
        work=parts.work,
        store=parts.store,
        bell=parts.bell,
        secrets=parts.secrets,
        broker=parts.broker,
        cancellations=parts.cancellations,
        call_instance=parts.call_instance,
        leaving=parts.leaving,
        internal_hosts=internal_hosts,
    )
    return Gateway(seat=parts.seat, routes=routes(needed))


async def run(settings: Settings) -> None:
    """Wait for the record, then serve. A record that goes away later makes answers 503, not us unready."""
    waits_for = ["the record"]
    ready = {"record": lambda: f"waits for {waits_for[0]}" if waits_for else None}
    health = await serve_health(settings.metrics_port, live={}, ready=ready)
    async with health, gateway_parts(settings) as parts:
        await wait_for_record(parts.check_schema)
        await _publish_limits(parts)
        waits_for.clear()
        duties = [
            asyncio.create_task(keep_observing(parts.observe), name="observe-credentials"),
            asyncio.create_task(keep_asking(parts.leaving.refresh), name="see-who-may-leave"),
        ]
        try:
            app = build_app(parts, settings.internal_host_set)
            collect_seldom()
            await serve(app, port=settings.http_port, host=settings.http_host, release=parts.release)
        finally:
            for duty in duties:
                duty.cancel()
            await asyncio.wait(duties)


async def _publish_limits(parts: GatewayParts) -> None:
    """Write what the installation allows before the first run starts; the record may be away again."""
    while True:
        try:
            changed = await parts.publish_limits()
        except Unavailable as error:
            _log.warning("limits cannot be written; trying again", error=error.message)
            await asyncio.sleep(error.retry_after_seconds)
        else:
            if changed:
                _log.info("limits changed", scopes=[*changed])
            return


def main() -> None:
    """Start, or end with one sentence that says why not."""
    settings = Settings.read()
    configure_logging("gateway", settings.log_level)
    try:
        uvloop.run(run(settings))
    except EveresthoodError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
