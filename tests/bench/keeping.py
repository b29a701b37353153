"""What forgetting costs those who work: `python -m tests.bench.keeping`. PostgreSQL with fsync on.

Old runs with two steps, two lines, a label and a key each are forgotten while runs are accepted, claimed and
handed in at the pace that one loop comes to; the same pace without forgetting is measured before.
"""

import argparse
import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import uvloop
from tests.support.postgres import running_postgres
from tests.support.record import INSTANCE, Harness, finish, postgres_harness, step

from everesthood.adapters.postgres import Database, migrate
from everesthood.domain.keeping import Keeping
from everesthood.usecases.forget_old import Forgetter

KEEPING = Keeping(runs=30, dead_runs=90, log_lines=14, keys=7, audit=365)
_OLD = """
with ids as (
    select (lpad(to_hex((extract(epoch from now() - interval '60 days') * 1000)::bigint + n), 12, '0')
            || '7000' || '8000' || lpad(to_hex(n), 12, '0'))::uuid as id, n
    from generate_series(1, $1::int) n
), runs as (
    insert into run (id, namespace, instance, instance_uid, state, max_attempts, max_run_seconds, input, output,
                     requested_by, request_id, created_at, finished_at, labels)
    select id, 'acme', 'greeter', 'uid-a', case when n % 20 = 0 then 4 else 3 end, 3, 600, '{"who":"World"}', '"ok"',
           'alice', 'r', now() - interval '60 days', now() - interval '60 days', '{"team":"a"}' from ids
), labels as (
    insert into run_label select 'acme', 'team', 'a', id from ids
), steps as (
    insert into step (run_id, name, state, output, attempt, size)
    select id, name, 1, '"ok"', 1, 4 from ids cross join (values ('a'), ('b')) s(name)
), lines as (
    insert into run_log (run_id, at, level, message)
    select id, now() - interval '60 days', 'info', 'hello' from ids cross join generate_series(1, 2)
), keys as (
    insert into idempotency select 'uid-a', 'k-' || n, '', id, now() - interval '60 days' from ids
)
insert into audit (at, namespace, actor, action, target)
select now() - interval '400 days', 'acme', 'alice', 'run.accept', 'run/' || id from ids
"""


@dataclass(slots=True)
class Pace:
    """How fast work went, and how long single calls took."""

    seconds: float = 0.0
    runs: int = 0
    accepts: list[float] = field(default_factory=list)
    claims: list[float] = field(default_factory=list)

    def row(self, what: str) -> str:
        """Return a line of the table."""
        cells = [f"{self.runs / self.seconds:>9,.0f}"]
        for times in (sorted(self.accepts), sorted(self.claims)):
            cells += [f"{1000 * times[int(len(times) * share)]:>9.1f}" for share in (0.5, 0.99)]
        return f"{what:<28}" + "".join(cells)


async def work(record: Harness, pace: Pace, stop: asyncio.Event) -> None:
    """Accept 50 runs at once, claim and hand them in, again and again."""
    began = time.perf_counter()
    while not stop.is_set():
        await asyncio.gather(*(_accept(record, pace) for _ in range(50)))
        at = time.perf_counter()
        held = await record.claim(50)
        pace.claims.append(time.perf_counter() - at)
        await record.hand_in(*(finish(one, steps=(step("a"),)) for one in held))
        pace.runs += len(held)
    pace.seconds = time.perf_counter() - began


async def _accept(record: Harness, pace: Pace) -> None:
    at = time.perf_counter()
    await record.accept()
    pace.accepts.append(time.perf_counter() - at)


async def measure(url: str, number: int, seconds: float) -> int:
    """Print the table and return how many old rows are left that should be gone."""
    database = Database(lambda: url)
    await migrate(database)
    async with postgres_harness(url) as record:
        await record.registry.publish_instance(INSTANCE)
        async with database.acquire() as connection:
            await connection.execute("set statement_timeout = 0")
            await connection.fetch(_OLD, number, timeout=600)
            for table in ("run", "step", "run_log", "run_label", "idempotency", "audit"):
                await connection.execute(f"vacuum analyze {table}")
        for _ in range(2):  # the first is a warm-up
            pace, stop = Pace(), asyncio.Event()
            asyncio.get_running_loop().call_later(seconds, stop.set)
            await work(record, pace, stop)
        print(pace.row("alone"), flush=True)
        pace, stop = Pace(), asyncio.Event()
        working = asyncio.create_task(work(record, pace, stop))
        done, took = await forget(record)
        stop.set()
        await working
        print(pace.row("while old runs are deleted"), flush=True)
        async with database.acquire() as connection:
            left = await connection.fetchval(
                "select count(*) from run where finished_at < now() - interval '30 days' and state = 3"
            )
            orphans = await connection.fetchval(
                "select count(*) from step s where not exists (select from run r where r.id = s.run_id)"
            )
        print(
            f"deleted {dict(done)} in {took:.1f} s: {done['runs'] / took:,.0f} runs/s; {left} left, {orphans} steps without a run"
        )
    await database.close()
    return int(left + orphans)


async def forget(record: Harness) -> tuple[Counter[str], float]:
    """Do passes until one finds nothing more."""
    forgetter, done = Forgetter(store=record.keeper, keeping=KEEPING), Counter[str]()
    began = time.perf_counter()
    while found := {what: count for what, count in (await forgetter.forget()).items() if count}:
        done.update(found)
    return done, time.perf_counter() - began


def main() -> None:
    """Fail when something old is left, or something of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    print(f"{given.runs:,} old runs, 95 % of them to be deleted; accept, claim, hand in by one loop")
    print(f"{'':<28}{'runs/s':>9}{'accept':>9}{'p99 ms':>9}{'claim':>9}{'p99 ms':>9}")
    with running_postgres(fsync="on", shared_buffers="256MB") as server:
        raise SystemExit(uvloop.run(measure(server.url, given.runs, given.seconds)))


if __name__ == "__main__":
    main()
