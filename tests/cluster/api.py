"""A small Kubernetes client on the standard library, for the test bed's own needs."""

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from tests.cluster.settings import Layout, TestBedError

Object = dict[str, Any]
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class Api:
    """Speaks to one API server as its administrator; `keep` keeps a connection for each thread."""

    def __init__(self, layout: Layout, *, keep: bool = False) -> None:
        pki = layout.pki
        self._keep = keep
        self._host = urlsplit(layout.server).netloc
        self._tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._tls.load_cert_chain(str(pki / "admin.crt"), str(pki / "admin.key"))
        self._local = threading.local()

    def request(
        self, method: str, path: str, body: object = None, kind: str = "application/json"
    ) -> tuple[int, bytes]:
        """Return status and body; status 0 means that no server answered."""
        payload = None if body is None else json.dumps(body)
        # Twice, because a kept connection may have been closed by the server.
        for _ in range(2):
            try:
                connection = self._connection()
                connection.request(
                    method, path, payload, {"Content-Type": kind, "Accept": "application/json"}
                )
                answer = connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException):
                self._drop()
            finally:
                if not self._keep:
                    self._drop()
        return 0, b""

    def get(self, path: str) -> Object | None:
        """Return the object, or None while it is not there."""
        status, body = self.request("GET", path)
        return json.loads(body) if status == http.HTTPStatus.OK else None

    def apply(self, path: str, body: Object) -> None:
        """Create or update by server-side apply."""
        status, answer = self.request("PATCH", f"{path}?fieldManager=test-bed&force=true", body, APPLY)
        if not http.HTTPStatus.OK <= status < http.HTTPStatus.MULTIPLE_CHOICES:
            raise TestBedError(f"could not apply {path}: {status} {answer.decode()[:300]}")

    def ready(self) -> bool:
        return self.request("GET", "/readyz")[0] == http.HTTPStatus.OK

    def watch(self, path: str) -> Iterator[Object]:
        """Yield events of one watch request until the server ends it."""
        connection = http.client.HTTPSConnection(self._host, context=self._tls, timeout=330)
        try:
            connection.request("GET", path, headers={"Accept": "application/json"})
            for line in connection.getresponse():
                yield json.loads(line)
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPSConnection:
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPSConnection(self._host, context=self._tls, timeout=30)
        kept: http.client.HTTPSConnection = self._local.connection
        return kept

    def _drop(self) -> None:
        connection = self._local.__dict__.pop("connection", None)
        if connection:
            connection.close()


def until(condition: Callable[[], bool], *, timeout: float, what: str) -> None:
    """Ask again and again, for what no watch can tell; raise when time is up."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TestBedError(f"{what}: not within {timeout:g} s")
        time.sleep(0.05)
