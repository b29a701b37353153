"""The gateway as a process: it waits for its parts, says why it cannot start, and stops when told."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import msgspec
import pytest
from tests.support.postgres import free_port
from tests.support.record import database_url, databases

__all__ = ["database_url", "databases"]
pytestmark = pytest.mark.integration


class Process:
    """`everesthood gateway` with a cluster and a Redis that are away."""

    def __init__(self, folder: Path, database_url: str, **changes: str) -> None:
        self.port, self.metrics = free_port(), free_port()
        key = folder / "key"
        key.write_text("k" * 48)
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_bytes(msgspec.json.encode(_kubeconfig(free_port())))
        settings = {
            "DATABASE_URL": database_url,
            "REDIS_PORT": str(free_port()),
            "HTTP_PORT": str(self.port),
            "METRICS_PORT": str(self.metrics),
            "BELL_KEY_FILE": str(key),
            "FINGERPRINT_KEY_FILE": str(key),
            "KUBECONFIG": str(kubeconfig),
            **changes,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "everesthood.entrypoints.gateway.main"],
            env={**os.environ, **{f"EVERESTHOOD_{name}": value for name, value in settings.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def get(self, port: int, path: str, data: bytes | None = None) -> tuple[int, str]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", data=data, headers={"Authorization": "Bearer x"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def until(self, port: int, path: str, status: int, data: bytes | None = None) -> str:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found, text = self.get(port, path, data)
            if found == status:
                return text
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)
        raise AssertionError((found, text))

    def end(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


def _kubeconfig(port: int) -> dict[str, object]:
    cluster = {"server": f"http://127.0.0.1:{port}"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


def test_it_serves_while_its_neighbours_are_away_and_stops_when_told(tmp_path: Path, database_url: str):
    """Without a cluster it answers 503 to workers, stays up, and ends well on SIGTERM."""
    gateway = Process(tmp_path, database_url)
    gateway.until(gateway.metrics, "/readyz", 200)
    refusal = gateway.until(gateway.port, "/v1/work", 503, b"{}")
    metrics = gateway.get(gateway.metrics, "/metrics")[1]

    code, out, err = gateway.end()

    assert msgspec.json.decode(refusal)["status"] == 503
    assert 'everesthood_gateway_calls_total{code="503",route="/v1/work"}' in metrics
    assert (code, err) == (0, "")
    assert all(msgspec.json.decode(line)["process"] == "gateway" for line in out.splitlines())


def test_it_waits_for_the_record(tmp_path: Path):
    """While PostgreSQL is away it lives, is not ready, and says what it waits for."""
    gateway = Process(tmp_path, f"postgresql://x@127.0.0.1:{free_port()}/x")

    waits = gateway.until(gateway.metrics, "/readyz", 503)
    gateway.process.kill()
    gateway.process.communicate(timeout=20)

    assert "waits for the record" in waits


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"DATABASE_URL": ""}, "Set EVERESTHOOD_DATABASE_URL_FILE or EVERESTHOOD_DATABASE_URL"),
        ({"BELL_KEY_FILE": ""}, "Set EVERESTHOOD_BELL_KEY_FILE to a file with a key"),
        ({"FINGERPRINT_KEY_FILE": "/dev/null"}, "must have at least 32 bytes"),
    ],
)
def test_it_says_what_it_lacks(tmp_path: Path, database_url: str, changes: dict[str, str], says: str):
    """A missing setting ends it with one sentence that names the variable."""
    gateway = Process(tmp_path, database_url, **changes)

    _, err = gateway.process.communicate(timeout=20)

    assert gateway.process.returncode == 1
    assert says in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
