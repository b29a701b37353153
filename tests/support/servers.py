"""Small real HTTP servers for tests, in threads, which remember what they were asked."""

import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Reply:
    """What to answer; `parts` are sent one by one, `wait` is called before each."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    parts: list[bytes] | None = None
    wait: Callable[[], object] | None = None
    hang_up: bool = False


class Server:
    """A server whose answers a test chooses by path."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[Asked] = []
        self.replies: dict[str, Callable[[Asked], Reply] | Reply] = {}
        self.ended = threading.Event()

    def reply_to(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        found = self.replies.get(asked.path.partition("?")[0], Reply(status=404))
        return found(asked) if callable(found) else found


@contextmanager
def serving(certificate: tuple[Path, Path] | None = None, host: str = "127.0.0.1") -> Iterator[Server]:
    """Serve on a free port of the loopback address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = server.reply_to(Asked(self.command, self.path, headers, body))
            if reply.hang_up:
                self.close_connection = True
                return
            self.send_response(reply.status)
            parts = [reply.body] if reply.parts is None else reply.parts
            given = {name.lower() for name in reply.headers}
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.parts is not None:
                self.send_header("Connection", "close")
            elif "content-length" not in given:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            for part in parts:
                if reply.wait is not None:
                    reply.wait()
                self.wfile.write(part)
            self.close_connection = reply.parts is not None

        def log_message(self, *_: object) -> None: ...

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = answer  # noqa: N815

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Clients that break off are what is tested."""

    httpd = Quiet((host, 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    server = Server(httpd.server_address[1])
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def make_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """Make a self-signed certificate for a host; return (certificate, key)."""
    certificate, key = folder / f"{host}.crt", folder / f"{host}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", f"/CN={host}",
         "-addext", f"subjectAltName=DNS:{host}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key
