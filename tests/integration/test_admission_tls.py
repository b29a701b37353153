"""The webhook over real TLS: it serves, and takes a renewed certificate without a gap."""

import asyncio
import contextlib
import json
import shutil
import ssl
from pathlib import Path

import pytest
from tests.support.certificates import make_certificate

from everesthood.domain.manifests import Verdict
from everesthood.entrypoints.admission.app import App
from everesthood.entrypoints.admission.server import Certificate, make_server

pytestmark = pytest.mark.integration


@contextlib.asynccontextmanager
async def serving(certificate):
    async def review(_review):
        return Verdict()

    server = make_server(App(review), certificate, port=0, host="127.0.0.1")
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done(), task.exception()
        await asyncio.sleep(0)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def connect(port: int, folder: Path):
    trust = ssl.create_default_context(cafile=str(folder / "tls.crt"))
    return await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname="localhost")


async def ask(streams, path="/healthz", body=b"") -> bytes:
    reader, writer = streams
    method = b"POST" if body else b"GET"
    head = b"%b %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % (method, path.encode(), len(body)) + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return answer.split(b" ")[1] + b" " + await reader.readexactly(length)


def subject(streams) -> str:
    return dict(part[0] for part in streams[1].get_extra_info("peercert")["subject"])["commonName"]


async def test_a_renewed_certificate_is_served_without_closing_a_connection(tmp_path):
    """New connections get the new certificate, the old one's connections go on, nothing is refused."""
    old, new = tmp_path / "old", tmp_path / "new"
    make_certificate(old, "first")
    make_certificate(new, "second")
    live = tmp_path / "live"
    shutil.copytree(old, live)
    certificate = Certificate(str(live))

    async with serving(certificate) as port:
        before = await connect(port, old)
        assert await ask(before) == b"200 ok\n"

        following = asyncio.create_task(certificate.follow(every_seconds=0.01))
        (live / "tls.crt").write_bytes((new / "tls.crt").read_bytes())
        with pytest.raises(ssl.SSLError):
            certificate.refresh()  # half a pair: the old one stays
        during = await connect(port, old)
        assert await ask(during) == b"200 ok\n"
        (live / "tls.key").write_bytes((new / "tls.key").read_bytes())
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(ssl.SSLError):
                    after = await connect(port, new)
                    break
                await asyncio.sleep(0.01)

        assert (subject(before), subject(after)) == ("first", "second")
        assert await ask(before) == b"200 ok\n"
        assert await ask(after) == b"200 ok\n"
        following.cancel()
        for _, writer in (before, during, after):
            writer.close()


async def test_a_review_is_answered_over_tls(tmp_path):
    """The API server's call, with its query, gets an AdmissionReview."""
    make_certificate(tmp_path, "hook")
    review = {
        "apiVersion": "admission.k8s.io/v1",
        "request": {"uid": "u", "kind": {"kind": "AgentTemplate"}, "operation": "CREATE"},
    }
    async with serving(Certificate(str(tmp_path))) as port:
        streams = await connect(port, tmp_path)
        answer = await ask(streams, "/validate?timeout=5s", json.dumps(review).encode())
        streams[1].close()

    assert answer.startswith(b"200 ")
    assert json.loads(answer[4:])["response"] == {"uid": "u", "allowed": True}


def test_a_missing_certificate_is_an_error_at_the_start(tmp_path):
    """The process does not start without a certificate."""
    with pytest.raises(FileNotFoundError):
        Certificate(str(tmp_path))
