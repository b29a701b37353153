"""Wires one machine: servers, the record, and what each process of it is told."""

import asyncio
import fcntl
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from everesthood.adapters.local import Person, Seat, Servers, World, running_servers, write_world
from everesthood.adapters.local.servers import free_port, stop_process
from everesthood.adapters.postgres import Database, Listener, PostgresRegistry, PostgresRuns, migrate
from everesthood.domain.errors import Invalid, Unavailable
from everesthood.usecases.ports.registry import PublishedInstance

__all__ = ["Site", "free_port", "local_site", "stop_process"]

PERSON = "you"
_HOST = "127.0.0.1"
_PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.02


@dataclass(slots=True, kw_only=True)
class Site:
    """A running record, and the ways to run processes on it."""

    folder: Path
    port: int
    internal_hosts: frozenset[str]
    token: str
    """What people call the API with."""
    gateway_port: int
    inherited: Mapping[str, str]
    """The environment that this process was given."""
    servers: Servers
    database: Database
    listener: Listener
    registry: PostgresRegistry
    runs: PostgresRuns

    async def close(self) -> None:
        """Close what this process itself has open."""
        for part in (self.runs, self.registry, self.listener, self.database):
            await part.close()

    async def queue_ready(self, uid: str) -> None:
        """Wait until the broker knows the instance."""
        while not (await self.registry.queue_state(uid)).ready:  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(_PAUSE_SECONDS)

    def process(self, *, metrics_port: int) -> dict[str, str]:
        """Return the environment of web, gateway or scheduler, but for their HTTP port."""
        settings = {
            "DATABASE_URL": self.servers.database_url,
            "REDIS_PORT": str(self.servers.redis_port),
            "REDIS_PASSWORD_FILE": str(self.servers.redis_password_file),
            "REDIS_BELL_PASSWORD_FILE": str(self.folder / "bell-password"),
            "BELL_KEY_FILE": str(self.folder / "bell-key"),
            "FINGERPRINT_KEY_FILE": str(self.folder / "fingerprint-key"),
            "LOCAL_WORLD": str(self.folder / "world.json"),
            "HTTP_HOST": _HOST,
            "INTERNAL_HOSTS": ",".join(sorted(self.internal_hosts)),
            "METRICS_PORT": str(metrics_port),
        }
        return self._environment(settings)

    def worker(
        self,
        seat: Seat,
        *,
        name: str,
        metrics_port: int,
        folders: Sequence[Path],
        variables: Mapping[str, str],
    ) -> dict[str, str]:
        """Return the environment of a worker: no database, no broker, the author's code importable."""
        token = self.folder / "tokens" / f"{seat.instance_uid}-{seat.revision}"
        _write(token, seat.token)
        settings = {
            "GATEWAY_URL": f"http://{_HOST}:{self.gateway_port}",
            "GATEWAY_TOKEN_FILE": str(token),
            "REVISION": seat.revision,
            "IDENTITY": name,
            "METRICS_PORT": str(metrics_port),
            "WORKER_GRACE_SECONDS": "5",
        }
        path = [*map(str, folders), *filter(None, [self.inherited.get("PYTHONPATH")])]
        return {**self._environment(settings), **variables, "PYTHONPATH": os.pathsep.join(path)}

    def _environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        # What is set for this command must not reach the processes: only what it tells them counts.
        own = {name: value for name, value in self.inherited.items() if not name.startswith("EVERESTHOOD_")}
        return own | {f"EVERESTHOOD_{name}": value for name, value in settings.items()}

    def seat(self, instance: PublishedInstance) -> Seat:
        """Return a seat for a worker of the instance's current revision."""
        return Seat(
            token=secrets.token_urlsafe(32),
            namespace=instance.namespace,
            account=instance.service_account,
            instance_uid=instance.uid,
            revision=instance.current_revision or "",
        )

    def tell(self, seats: Sequence[Seat], values: Mapping[str, Mapping[str, str]]) -> None:
        """Tell web and gateway who the workers are and which Secrets there are."""
        known = {name: dict(keys) for name, keys in values.items()}
        people = (Person(token=self.token, name=PERSON),)
        write_world(self.folder / "world.json", World(people=people, seats=tuple(seats), secrets=known))


@asynccontextmanager
async def local_site(
    folder: Path,
    *,
    port: int,
    internal_hosts: frozenset[str],
    inherited: Mapping[str, str],
    fresh: bool = False,
    meanwhile: Callable[[Site], None],
) -> AsyncIterator[Site]:
    """Run the servers and bring the record to this version's schema; forget all secrets at the end.

    `meanwhile` may start processes that wait for the record: to start them takes as long as to start it.
    """
    _prepare(folder)
    async with AsyncExitStack() as stack:
        stack.enter_context(_alone(folder))
        if fresh:  # under the lock: not the rows of a command that runs
            shutil.rmtree(folder / "postgres", ignore_errors=True)
        stack.callback((folder / "world.json").unlink, missing_ok=True)
        sites: list[Site] = []

        def begin(servers: Servers) -> None:
            database = Database(lambda: servers.database_url, size=4, application="everesthood-dev")
            listener = Listener(database)
            site = Site(
                folder=folder,
                port=port,
                internal_hosts=internal_hosts,
                inherited=inherited,
                token=(folder / "token").read_text(encoding="utf-8"),
                gateway_port=free_port(),
                servers=servers,
                database=database,
                listener=listener,
                registry=PostgresRegistry(database, listener),
                runs=PostgresRuns(database, listener),
            )
            sites.append(site)
            meanwhile(site)

        running = running_servers(folder, redis_password=secrets.token_urlsafe(24), meanwhile=begin)
        await stack.enter_async_context(running)
        (site,) = sites
        stack.push_async_callback(site.close)
        await _migrate(site.database)
        yield site


async def _migrate(database: Database) -> None:
    """Bring the schema up to date once the server, which takes connections, also answers them."""
    deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
    while True:
        try:
            await migrate(database)
        except Unavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return


def _prepare(folder: Path) -> None:
    folder.parent.mkdir(mode=0o711, exist_ok=True)
    folder.mkdir(mode=0o711, exist_ok=True)
    for owned in (folder.parent, folder):
        # The name can be guessed, so somebody else may have been there before.
        if owned.is_symlink() or owned.stat().st_uid not in (os.geteuid(), 0):
            raise Invalid(f"{owned} is somebody else's; name another folder with --state.")
    (folder / "tokens").mkdir(mode=0o700, exist_ok=True)
    for name in ("bell-key", "bell-password", "fingerprint-key", "token"):
        if not (folder / name).exists():
            _write(folder / name, secrets.token_urlsafe(32))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            said = (
                "`everesthood dev` runs for these files already; end it, or name another folder with --state."
            )
            raise Invalid(said) from None
        yield


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
