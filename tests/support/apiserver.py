"""A raw client of an API server for tests that must send what no client library would."""

import base64
import http.client
import json
import ssl
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ruamel.yaml import YAML


class ApiServer:
    """Sends bytes and gives status and JSON back."""

    def __init__(self, kubeconfig: str) -> None:
        """Read the first cluster and user of a kubeconfig."""
        config = YAML(typ="safe").load(Path(kubeconfig).read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.address = urlsplit(cluster["server"])
        self._tls = ssl.create_default_context(cadata=_text(cluster, "certificate-authority"))
        if _text(user, "client-certificate"):
            self._present(user)
        self._headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}

    def _present(self, user: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            cert, key = Path(folder, "crt"), Path(folder, "key")
            cert.write_text(_text(user, "client-certificate"))
            key.write_text(_text(user, "client-key"))
            self._tls.load_cert_chain(cert, key)

    def send(
        self, method: str, path: str, body: object = None, *, content_type: str = "application/json"
    ) -> tuple[int, dict[str, Any]]:
        """Return status and answer; a text or bytes body is sent as it is, all else as JSON."""
        data = body if isinstance(body, str | bytes | None) else json.dumps(body)
        connection = http.client.HTTPSConnection(
            str(self.address.hostname), self.address.port, context=self._tls, timeout=30
        )
        try:
            headers = {"Content-Type": content_type, "Accept": "application/json"} | self._headers
            payload = data.encode() if isinstance(data, str) else data
            connection.request(method, path, payload, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        finally:
            connection.close()


def _text(part: dict[str, Any], name: str) -> str:
    if f"{name}-data" in part:
        return base64.b64decode(part[f"{name}-data"]).decode()
    return Path(part[name]).read_text() if name in part else ""
