"""Serves the webhook over TLS and takes a renewed certificate without closing a connection.

The certificate is loaded again into the live context, so there is no moment without a listener.
"""

import asyncio
import hashlib
import ssl
from pathlib import Path
from typing import Final

import structlog
import uvicorn

from everesthood.entrypoints.admission.app import App

_LOOK_SECONDS: Final = 5.0
_CONCURRENT: Final = 200

_log = structlog.get_logger(__name__)


class Certificate:
    """The files of a mounted TLS Secret, and the context that serves them."""

    def __init__(self, folder: str) -> None:
        """Load the certificate; raise OSError or ssl.SSLError when that cannot be."""
        self._cert = Path(folder) / "tls.crt"
        self._key = Path(folder) / "tls.key"
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._digest = ""
        self.refresh()

    def refresh(self) -> bool:
        """Load the files into the live context if they changed; return whether they did."""
        cert, key = self._pair()
        digest = hashlib.sha256(cert.read_bytes() + key.read_bytes()).hexdigest()
        if digest == self._digest:
            return False
        # A pair that does not fit would leave the live context without any key: try it elsewhere first.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
        self.context.load_cert_chain(cert, key)
        self._digest = digest
        return True

    def _pair(self) -> tuple[Path, Path]:
        """Return both files of one mounted version: the kubelet swaps them behind one symbolic link."""
        cert = self._cert.resolve()
        key = cert.with_name(self._key.name)
        return (cert, key) if key.exists() else (cert, self._key)

    async def follow(self, every_seconds: float = _LOOK_SECONDS) -> None:
        """Look for a new certificate until cancelled; keep the old one while the new is unusable."""
        while True:
            await asyncio.sleep(every_seconds)
            try:
                if self.refresh():
                    _log.info("certificate renewed")
            except (OSError, ssl.SSLError) as error:
                _log.warning("new certificate cannot be used yet", error=str(error))


def make_server(app: App, certificate: Certificate, *, port: int, host: str = "") -> uvicorn.Server:
    """Return the server, not yet started."""
    config = uvicorn.Config(
        app,
        host=host or "0.0.0.0",  # noqa: S104 - a pod serves its Service
        port=port,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_CONCURRENT,
        timeout_graceful_shutdown=10,
        ssl_context_factory=lambda *_: certificate.context,
    )
    return uvicorn.Server(config)


async def serve(server: uvicorn.Server, certificate: Certificate) -> None:
    """Serve until a signal asks to stop."""
    following = asyncio.create_task(certificate.follow())
    try:
        await server.serve()
    finally:
        following.cancel()
