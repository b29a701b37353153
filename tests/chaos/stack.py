"""A whole installation on one machine, all of it real, that a test may strike and then asks whether all is well."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
from redis.exceptions import RedisError
from tests.chaos.launcher import ARMED, STRUCK
from tests.chaos.ledger import WISH_SECONDS, Ledger
from tests.chaos.members import Member, Servers
from tests.chaos.points import PROCESSES, Point
from tests.support.postgres import running_postgres
from tests.support.valkey import free_port, running_valkey

from everesthood.adapters.local import Servers as Addresses
from everesthood.adapters.postgres import Database, Listener, PostgresRegistry, PostgresRuns, migrate
from everesthood.adapters.postgres.limits import publish_shared
from everesthood.apis.reasons import Reason
from everesthood.bootstrap.dev import Site
from everesthood.domain.errors import EveresthoodError
from everesthood.domain.limits import Limits, Rate, Shared
from everesthood.domain.schedules import Missed, Overlap, Schedule
from everesthood.usecases.ports.registry import PublishedCredential, PublishedInstance, PublishedRevision

LEASE_SECONDS = 2
_COMMIT_SECONDS = 0.05
"""From the moment that PostgreSQL writes a step to the one at which it is durable."""
SLOW_SECONDS = 1.2
"""Longer than it takes until a lease is renewed, shorter than a lease."""
_PLACES = 4
_LIMITS = Limits(concurrency=20, rate=Rate(runs=1000, period_seconds=1, burst=100))
ROOT = Path(__file__).parents[2]
NAMESPACE = "default"
REVISION = "r1"

_BOOKS = """
create table chaos_done (run_id uuid, name text, attempt int, at timestamptz);
create table chaos_breach (run_id uuid, what text);
create function chaos_step() returns trigger language plpgsql as $$ begin
  if new.state = 1 then insert into chaos_done values (new.run_id, new.name, new.attempt, clock_timestamp()); end if;
  return null;
end $$;
create trigger chaos_step after insert or update on step for each row execute function chaos_step();
create function chaos_run() returns trigger language plpgsql as $$ begin
  if old.state = 7 and new.state <> 7 then
    insert into chaos_breach values (new.id, 'is no longer in doubt');
  end if;
  if old.state in (3, 4, 5, 6) and new.state <> old.state then
    insert into chaos_breach values (new.id, 'left its final state');
  end if;
  if new.fence < old.fence then insert into chaos_breach values (new.id, 'its fence went back'); end if;
  if old.state = 1 and new.state = 1 and new.fence <> old.fence and old.lease_until > now() then
    insert into chaos_breach values (new.id, 'was taken from its holder');
  end if;
  return null;
end $$;
create trigger chaos_run after update on run for each row execute function chaos_run();
"""
"""What PostgreSQL itself notes, so that no later write can hide an earlier one."""
_FORGET = (
    "delete from chaos_done; delete from chaos_breach; delete from step; delete from run_log; delete from approval; "
    "delete from run; delete from kept_back; delete from run_limit where scope like 'credential/%'; "
    "delete from idempotency; delete from audit; delete from leaver; delete from scale_in;"
)
_OPEN = "select id::text from run where state in (0, 1, 2)"
_RECOVERED = """
select extract(epoch from greatest(max(r.finished_at) filter (where r.created_at <= s.at),
                                   min(r.finished_at) filter (where r.created_at > s.at and r.state = 3)) - s.at)::float8
       as seconds
from run r cross join (select now() - interval '{seconds} seconds' as at) s
where r.instance = 'struck' group by s.at
"""
_DONE = """
select run_id::text as run, name, min(attempt) as attempt, extract(epoch from min(at))::float8 as at
from chaos_done group by run_id, name
"""


def _template(address: str) -> dict[str, Any]:
    """Return an agent of seven steps: `second` takes as long as it is told, `once` must not be repeated."""

    def call(step: str, seconds: str = "0", **more: Any) -> dict[str, Any]:
        url = f"{{{{ config.ledger }}}}/{{{{ run.id }}}}/{{{{ run.attempt }}}}/{step}/{seconds}"
        return {"method": "POST", "url": url, **more}

    return {
        "displayName": "Struck",
        "credentials": [{"name": "key", "hosts": [address]}],
        "egress": {"hosts": [address]},
        "queue": {"maxAttempts": 15, "maxRunSeconds": 50},
        "worker": {"slots": 20},
        "steps": [
            {"name": "first", "idempotent": True, "retry": {}, "http": call("first", credential="key")},
            {"name": "second", "needs": ["first"], "idempotent": True, "http": call("second", "{{ input.seconds }}")},
            {"name": "third", "needs": ["second"], "idempotent": True, "code": {"entrypoint": "tests.chaos.agent:work"}},
            {"name": "calls", "needs": ["third"], "when": "input.calls", "idempotent": True, "agent": {
                "endpoint": call("model")["url"], "model": "m", "instructions": "Call.", "prompt": "Now.",
                "tools": [{"name": "help", "description": "Helps.", "instance": "helper"}],
            }},
            {"name": "asked", "needs": ["calls"], "when": "input.asks", "approval": {"message": "Go on?"}},
            {"name": "once", "needs": ["asked"], "when": "input.once", "idempotent": False, "http": call("once")},
            {"name": "last", "needs": ["once"], "idempotent": True, "http": call("last")},
        ],
    }  # fmt: skip


@dataclass(slots=True)
class Found:
    """What became of everything that a case set going."""

    runs: int
    """Runs that there were."""
    left: int
    """Those that are not over."""
    breaches: list[str]
    seconds: float
    """From the strike to the end of the last run from before it, and of the first one from after it."""


@dataclass(slots=True, kw_only=True)
class Stack:
    """One installation. Use `running_stack`."""

    folder: Path
    cache: Path
    """Where its processes keep what they compiled, so that they start as fast as in an image."""
    site: Site
    servers: Servers
    ledger: Ledger
    registry: PostgresRegistry
    http: httpx2.AsyncClient
    members: dict[str, Member] = field(default_factory=dict)
    answered: dict[str, str] = field(default_factory=dict)
    """Idempotency-Key → the run that was promised for it."""
    breaches: list[str] = field(default_factory=list)
    generation: int = 1
    struck_at: float = 0.0
    victims: list[int] = field(default_factory=list)
    """Servers' processes that are to die."""
    unanswered: set[str] = field(default_factory=set)
    """Runs that waited for an answer for too long, and are dead for it."""
    resolved: set[str] = field(default_factory=set)
    """Runs of which a person said how they go on."""
    owed: list[tuple[str, str]] = field(default_factory=list)
    """Sentences about what must not be in the end, each with the question that finds it."""
    _guests: int = 0
    is_limited: bool = False

    # --- striking ---------------------------------------------------------------------------------------

    async def forget(self) -> None:
        """Begin anew: nothing is open, everybody serves."""
        for member in self.members.values():
            await member.until_ready()
        await self.ask(_FORGET)
        if self.is_limited:
            self.is_limited = False
            await self.publish()
            await persist(lambda: publish_shared(self.site.database, Shared()))
        self.ledger.calls.clear()
        self.ledger.refusals = self.ledger.silences = 0
        self.ledger.wish_seconds = WISH_SECONDS
        self.owed.clear()
        self.resolved.clear()
        self.unanswered.clear()
        self.answered.clear()
        self.breaches.clear()
        for file in (*self.folder.glob(f"*.{ARMED}"), *self.folder.glob(f"*.{STRUCK}")):
            file.unlink()

    def arm(self, point: Point) -> None:
        """Strike when the point is come to."""
        victims = self.victims = [] if point.victim == point.process else self.servers.pids(point.victim)
        wanted = {"operation": point.operation, "moment": point.moment, "victims": victims}
        new = self.folder / f"{point.process}.new"
        new.write_text(json.dumps(wanted))
        new.rename(self.folder / f"{point.process}.{ARMED}")

    async def struck(self, process: str, seconds: float) -> bool:
        """Return whether the point was come to within the time."""
        file = self.folder / f"{process}.{STRUCK}"
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if file.exists() and (said := file.read_text()):
                self.struck_at = float(said)
                return True
            await asyncio.sleep(0.02)
        return False

    def send(self, pids: Sequence[int], how: signal.Signals) -> None:
        """Send a signal to each."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, how)

    # --- what people and the controller do ----------------------------------------------------------------

    async def post(
        self,
        *,
        seconds: float = 0.02,
        once: bool = False,
        asks: bool = False,
        calls: bool = False,
        dedupe: str = "",
        instance: str = "struck",
    ) -> str:
        """Ask for a run until it is accepted, as a client with an Idempotency-Key does, and return it."""
        key = uuid.uuid4().hex
        body: dict[str, Any] = {"input": {"seconds": seconds, "once": once, "asks": asks, "calls": calls}}
        if dedupe:
            body["dedupe"] = {"key": dedupe}
        path = f"/instances/{instance}/runs"
        answer = await self.insist("POST", path, json=body, headers={"Idempotency-Key": key})
        while answer.status_code == 409 and answer.json()["reason"] == Reason.ORGANIZATION_STOPPED:
            await asyncio.sleep(0.1)  # another errand has it started again
            answer = await self.insist("POST", path, json=body, headers={"Idempotency-Key": key})
        assert answer.status_code in (200, 201), answer.text
        run = str(answer.json()["id"])
        if self.answered.setdefault(key, run) != run:
            self.breaches.append(f"{key} was promised {self.answered[key]} and {run}")
        return run

    async def cancel(self, run: str) -> None:
        """Cancel a run, and again if nobody answers; it may be over by then."""
        answer = await self.insist("POST", f"/runs/{run}/cancel")
        assert answer.status_code in (200, 409), answer.text

    async def insist(self, method: str, path: str, **more: Any) -> httpx2.Response:
        deadline = time.monotonic() + 30
        while True:
            with suppress(httpx2.TransportError):
                answer = await self.http.request(method, path, **more)
                if answer.status_code < 500:
                    return answer
            if time.monotonic() > deadline:
                raise RuntimeError(f"{method} {path} is not answered")
            await asyncio.sleep(0.05)

    async def work(self) -> None:
        """Everything that a person asks for: plain, slow, deduplicated, unrepeatable and cancelled runs."""
        plain = [self.post() for _ in range(3)]
        await asyncio.gather(*plain, self.post(seconds=SLOW_SECONDS), self.post(once=True), self._give_up())
        await asyncio.gather(self.post(dedupe="same", seconds=0.3), self.post(dedupe="same", seconds=0.3))

    async def stream(self) -> None:
        """Have runs one after the other, so that some end while others are to be claimed."""
        for _ in range(12):
            await asyncio.gather(self.post(), self.post(), asyncio.sleep(0.05))

    async def _give_up(self) -> None:
        await self.cancel(await self.post(seconds=SLOW_SECONDS))

    async def fire(self) -> None:
        """Let times of schedules come: the second finds the run of the first, and cancels it or waits for it."""
        for _ in range(2):
            at = datetime.now(UTC) + timedelta(seconds=0.3)
            await self.publish(tuple(_schedule(overlap, at) for overlap in Overlap))
            await asyncio.sleep(0.9)

    async def house_a_guest(self) -> None:
        """Make an instance, ask it for a run that nobody does, and remove it."""
        self._guests += 1
        guest = replace(_instance(), uid=f"guest-{self._guests}", name=f"guest-{self._guests}", bindings={})
        await persist(lambda: self.registry.publish_instance(guest))
        deadline = time.monotonic() + 10
        while not (await self._queue_is_ready(guest.uid)) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await self.post(instance=guest.name)
        await asyncio.sleep(0.2)
        await persist(lambda: self.registry.remove_instance(guest.uid))
        await asyncio.sleep(2.5)  # in which the scheduler looks after users

    async def _queue_is_ready(self, uid: str) -> bool:
        with suppress(EveresthoodError):
            return (await self.registry.queue_state(uid)).ready
        return False

    async def lose_a_worker(self) -> None:
        """Kill the worker under its runs: the next one asks for its queue and for credentials anew."""
        posting = asyncio.create_task(self.post(seconds=SLOW_SECONDS))
        await asyncio.sleep(0.3)
        await self.members["worker"].kill()
        await posting
        await self.work()

    async def ask_a_person(self) -> None:
        """Have runs that wait for an answer, and answer each until the answer is heard."""
        runs = await asyncio.gather(*(self.post(asks=True) for _ in range(3)))
        await asyncio.gather(*map(self._approve, runs))

    async def _approve(self, run: str) -> None:
        deadline = time.monotonic() + 30
        path = f"/runs/{run}/steps/asked/approval"
        while (answer := await self.insist("POST", path, json={"approved": True})).status_code != 200:
            if time.monotonic() > deadline:  # before the run asks there is nothing to answer
                self.breaches.append(f"run {run} takes no answer: {answer.text}")
                return
            await asyncio.sleep(0.1)

    async def answer_nobody(self) -> None:
        """Have a run that waits for an answer until it is too late for one."""
        run = await self.post(asks=True)
        deadline = time.monotonic() + 30
        while not await self.ask(f"select 1 from run where id = '{run}' and state = 2"):
            if time.monotonic() > deadline:
                self.breaches.append(f"run {run} does not ask")
                return
            await asyncio.sleep(0.05)
        self.unanswered.add(run)
        await self.ask(f"update approval set deadline_at = now() where run_id = '{run}';")

    async def limit(self) -> None:
        """Let fewer runs start than there are, by a cap of the platform's and a rate of the instance's."""
        self.is_limited = True
        await self.publish()
        shared = Shared(platform=Limits(concurrency=_PLACES))
        await persist(lambda: publish_shared(self.site.database, shared))
        await asyncio.gather(*(self.post(seconds=SLOW_SECONDS / 2) for _ in range(2 * _PLACES)))

    async def refuse(self) -> None:
        """Let the world outside refuse a credential for a moment, so that it is held for all."""
        self.ledger.refusals = 2
        await self.work()

    async def forget_scripts(self, then: Callable[[], Awaitable[None]]) -> None:
        """Let Redis forget what it was taught, and do something then for which somebody rings."""
        with suppress(RedisError, OSError), self.servers.redis.admin() as redis:
            redis.script_flush()
        await then()

    async def publish(self, schedules: tuple[Schedule, ...] = ()) -> None:
        """Do as the controller does with a changed AgentInstance."""
        self.generation += 1
        instance = replace(_instance(self.ledger.address), generation=self.generation, schedules=schedules)
        if self.is_limited:
            instance = replace(instance, limits=_LIMITS)
        await persist(lambda: self.registry.publish_instance(instance))

    # --- the outcome --------------------------------------------------------------------------------------

    async def until_over(self, seconds: float) -> int:
        """Wait until no run is open any more; return how many are."""
        deadline = time.monotonic() + seconds
        while (left := await self.ask(_OPEN)) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return len(left)

    async def outcome(self, *, within: float) -> Found:
        """Wait until every run is over, and look whether anything happened that must not."""
        left = await self.until_over(within)
        runs = await self.ask("select id::text, state, reason, message from run")
        known = {row["id"] for row in runs}
        breaches = [*self.breaches, *(f"run {run} is lost" for run in set(self.answered.values()) - known)]
        breaches += [
            f"run {row['run_id']} {row['what']}"
            for row in await self.ask("select run_id::text, what from chaos_breach")
            if row["run_id"] not in self.resolved or row["what"] != "is no longer in doubt"
        ]
        breaches += [
            f"run {r['id']} is dead: {r['reason']}, {r['message']}"
            for r in runs
            if r["state"] in (4, 6) and not (r["id"] in self.unanswered and r["reason"] == "ApprovalExpired")
        ]
        breaches += [said async for said in self._repeats()]
        breaches += [said async for said in self._owing(within)]
        since = (await self.ask(_RECOVERED.format(seconds=time.monotonic() - self.struck_at)))[0]["seconds"]
        return Found(runs=len(runs), left=left, breaches=breaches, seconds=max(0.0, since or 0.0))

    async def _repeats(self) -> AsyncIterator[str]:
        """Say which steps were called for again although the record had them as done, or must not be repeated."""
        done = {(row["run"], row["name"]): (row["attempt"], row["at"]) for row in await self.ask(_DONE)}
        echoes: Counter[str] = Counter()
        for (run, step), calls in self.ledger.calls.items():
            by, kept = done.get((run, "third/piece" if step == "third" else step), (0, float("inf")))
            for attempt, at in calls:
                if at > kept + _COMMIT_SECONDS and attempt < by:
                    echoes[run] += 1  # what a frozen worker was about to send when it was frozen
                elif at > kept + _COMMIT_SECONDS:
                    yield f"run {run}: {step} was done {at - kept:.2f} s before attempt {attempt} called again"
            if step == "once" and len(calls) > 1:
                yield f"run {run}: {step} must not be repeated and was called {len(calls)} times"
        for run, count in echoes.items():
            if count > 1:
                yield f"run {run}: a worker that had lost it made {count} more calls"

    async def _owing(self, seconds: float) -> AsyncIterator[str]:
        """Say what is not as it must be in the end, once it has had its time to become so."""
        deadline = time.monotonic() + seconds
        for said, question in self.owed:
            while (found := await self.ask(question)) and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
            for row in found:
                yield f"{said}: {dict(row)}"

    async def ask(self, statement: str) -> Sequence[Mapping[str, Any]]:
        """Ask PostgreSQL by a connection of our own, as soon as it answers."""
        deadline = time.monotonic() + 30
        while True:
            try:
                connection = await asyncpg.connect(self.servers.postgres.url, timeout=3)
                try:
                    if ";" in statement:
                        await connection.execute(statement)
                        return []
                    rows: Sequence[Mapping[str, Any]] = await connection.fetch(statement)
                    return rows
                finally:
                    connection.terminate()
            except (
                OSError,
                TimeoutError,
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
            ):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)

    def hire(self, process: str, name: str | None = None) -> Member:
        """Make a process of the installation; `start` it. One named `helper` works for that instance."""
        metrics = free_port()
        name = name or process
        if process == "worker":
            seat = _seat(self.site, "helper" if name == "helper" else "struck")
            environment = self.site.worker(seat, name=name, metrics_port=metrics, folders=[], variables={})
        else:
            ports = {"web": self.site.port, "gateway": self.site.gateway_port, "scheduler": 0}
            environment = self.site.process(metrics_port=metrics)
            environment["EVERESTHOOD_HTTP_PORT"] = str(ports[process])
        environment |= {
            "EVERESTHOOD_LEASE_SECONDS": str(LEASE_SECONDS),
            "CHAOS_FOLDER": str(self.folder),
            "CHAOS_PROCESS": "helper" if name == "helper" else process,
            "PYTHONPATH": f"{ROOT / 'operator'}{os.pathsep}{ROOT}",
            "PYTHONPYCACHEPREFIX": str(self.cache),
            "PYTHONDONTWRITEBYTECODE": "",
        }
        return Member(
            name=name, module=f"everesthood.entrypoints.{process}.main", environment=environment,
            metrics_port=metrics, log=self.folder / f"{name}.log",
        )  # fmt: skip


def replace_token(seat: Any, token: str) -> Any:
    """Return the seat with a token that outlives its process."""
    return type(seat)(**{name: getattr(seat, name) for name in seat.__struct_fields__} | {"token": token})


def _seat(site: Site, name: str) -> Any:
    return replace_token(site.seat(_instance(name=name)), f"{name}-token")


def _instance(ledger: str = "", name: str = "struck") -> PublishedInstance:
    return PublishedInstance(
        uid=f"{name}-uid", namespace=NAMESPACE, name=name, generation=1, template="struck",
        service_account=name, current_revision=REVISION,
        config=json.dumps({"ledger": f"http://{ledger}"}).encode(), bindings={"key": "ledger"},
    )  # fmt: skip


def _schedule(overlap: Overlap, at: datetime) -> Schedule:
    return Schedule(
        name=overlap.name.lower().replace("_", "-"), cron=None, at=at, time_zone="Etc/UTC", overlap=overlap,
        missed=Missed.LATEST, max_missed=1, jitter_seconds=0, suspended=False,
        input=json.dumps({"seconds": SLOW_SECONDS, "once": False, "asks": False, "calls": False}).encode(),
    )  # fmt: skip


async def persist(act: Callable[[], Awaitable[object]]) -> None:
    """Do it, and again while PostgreSQL is away, as the controller does."""
    for _ in range(200):
        try:
            await act()
        except EveresthoodError:
            await asyncio.sleep(0.1)
        else:
            return
    raise RuntimeError("the record stays away")


@asynccontextmanager
async def running_stack(cache: Path) -> AsyncIterator[Stack]:
    """Run an installation of its own, and leave nothing behind."""
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = await _entered(stack, running_postgres(fsync="on", max_connections="60"))
        redis = await _entered(stack, running_valkey())
        servers = Servers(postgres, redis)
        database = Database(lambda: postgres.url, size=4, application="chaos")
        stack.push_async_callback(database.close)
        await migrate(database)
        listener = Listener(database)
        stack.push_async_callback(listener.close)
        registry, runs = PostgresRegistry(database, listener), PostgresRuns(database, listener)
        for store in (registry, runs):
            stack.push_async_callback(store.close)
        ledger = Ledger()
        await ledger.open()
        stack.callback(ledger.close)
        made = await _furnish(folder, cache, servers, ledger, (database, listener, registry, runs))
        stack.push_async_callback(made.http.aclose)
        await made.ask(_BOOKS)
        for process in PROCESSES:
            made.members[process] = made.hire(process)
        stack.push_async_callback(_end, made)
        servers.start()
        for member in made.members.values():
            member.start()
        for member in made.members.values():
            await member.until_ready(60)
        yield made


async def _entered(stack: AsyncExitStack, server: contextlib.AbstractContextManager[Any]) -> Any:
    entered = await asyncio.to_thread(server.__enter__)
    stack.callback(server.__exit__, None, None, None)
    return entered


async def _furnish(
    folder: Path,
    cache: Path,
    servers: Servers,
    ledger: Ledger,
    record: tuple[Database, Listener, PostgresRegistry, PostgresRuns],
) -> Stack:
    """Write what the processes read, and publish the agent."""
    database, listener, registry, runs = record
    (folder / "tokens").mkdir()
    for name in ("bell-key", "bell-password", "fingerprint-key", "token"):
        (folder / name).write_text(uuid.uuid4().hex * 2)
    addresses = Addresses(
        database_url=servers.postgres.url,
        redis_port=servers.redis.port,
        redis_password_file=servers.redis.password_file,
    )
    site = Site(
        folder=folder, port=free_port(), internal_hosts=frozenset({ledger.address}), token="a-person",
        gateway_port=free_port(), inherited=dict(os.environ), servers=addresses,
        database=database, listener=listener, registry=registry, runs=runs,
    )  # fmt: skip
    seats = [_seat(site, name) for name in ("struck", "helper")]
    site.tell(seats, {f"{NAMESPACE}/ledger": {"token": "of-the-ledger"}})
    spec = json.dumps(_template(ledger.address)).encode()
    await registry.publish_revision(
        PublishedRevision(namespace=NAMESPACE, digest=REVISION, template="struck", spec=spec)
    )
    await registry.publish_credential(
        PublishedCredential(
            uid="ledger-uid", namespace=NAMESPACE, name="ledger", generation=1, type="Bearer", header="",
            secret_name="ledger", secret_key="token", hosts=(ledger.address,), allowed_instances=(),
        )
    )  # fmt: skip
    http = httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{site.port}/api/agent-marketplace/namespaces/{NAMESPACE}",
        headers={"Authorization": f"Bearer {site.token}"}, trust_env=False, timeout=5,
    )  # fmt: skip
    made = Stack(
        folder=folder, cache=cache, site=site, servers=servers, ledger=ledger, registry=registry, http=http
    )
    await made.publish()
    await registry.publish_instance(_instance(ledger.address, "helper"))
    return made


async def _end(stack: Stack) -> None:
    await stack.servers.end()
    await asyncio.gather(*(member.end() for member in stack.members.values()))
