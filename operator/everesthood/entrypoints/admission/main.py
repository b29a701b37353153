"""`everesthood admission`: starts the webhook."""

import asyncio
import ssl
import sys

from everesthood.adapters.telemetry import configure_logging, serve_health
from everesthood.bootstrap.admission import reviewer
from everesthood.domain.errors import EveresthoodError
from everesthood.entrypoints.admission.app import App
from everesthood.entrypoints.admission.server import Certificate, make_server, serve
from everesthood.settings import Settings


async def run(settings: Settings) -> None:
    """Serve until a signal asks to stop."""
    certificate = Certificate(settings.admission_cert_dir)
    async with reviewer(settings) as review:
        server = make_server(App(review), certificate, port=settings.admission_port)
        ready = {"listener": lambda: None if server.started else "not listening yet"}
        health = await serve_health(settings.metrics_port, live={}, ready=ready)
        async with health:
            await serve(server, certificate)


def main() -> None:
    """Start, or end with one sentence that says why not."""
    settings = Settings.read()
    configure_logging("admission", settings.log_level)
    try:
        asyncio.run(run(settings))
    except (OSError, ssl.SSLError) as error:
        sys.exit(f"cannot serve the certificate in {settings.admission_cert_dir}: {error}")
    except EveresthoodError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
