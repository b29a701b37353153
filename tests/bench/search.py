"""How fast runs are found among a million: `python -m tests.bench.search`.

One namespace with a million runs of 200 instances, 2 in 100 of them failed, besides a million of others.
Each figure is of one page of 50 over the store, warm; `pages` is how many calls look at everything.
"""

import argparse
import statistics
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import uvloop
from tests.support.postgres import running_postgres
from tests.support.record import Harness, postgres_harness

from everesthood.adapters.postgres import Database, migrate
from everesthood.domain.runs import RunState
from everesthood.usecases.ports.record import RunFilter

TARGET_MS = 150
_NOW = datetime(2026, 11, 25, tzinfo=UTC)
_FILL = """
insert into run (id, namespace, instance, instance_uid, state, revision, template, labels, reason, input, output,
                 max_attempts, max_run_seconds, requested_by, request_id, created_at, started_at, finished_at)
select i.id, $4, 'agent-' || n % 200, 'uid-' || $4 || n % 200, i.state, 'r' || n % 20, 'template-' || n % 50,
       case when n % 10 = 0 then jsonb_build_object('team', 'team-' || n % 100, 'rare', (n % 10000)::text) end,
       case when i.state = 4 then case when n % 5000 = 0 then 'HostRefused' else 'StepFailed' end
            when i.state = 3 then 'Succeeded' end,
       ('{"order":"A-' || n || '","text":"' || repeat(md5(n::text), 5) || '"}')::json,
       case when i.state = 3 then ('{"done":"' || md5('out' || n) || '"}')::json end,
       3, 3600, 'alice', 'r', i.at, i.at, i.at
from generate_series($1::int, $2::int - 1) n
cross join lateral (
    select $3::timestamptz - ($5 - n) * interval '3 seconds' as at,
           case when n % 50 = 0 then 4 when n > $5 - 200 then 0 else 3 end::smallint as state
) t
cross join lateral (
    select t.at, t.state, (lpad(to_hex((extract(epoch from t.at) * 1000)::bigint), 12, '0')
            || '7' || substr(md5(n::text || $4), 1, 3) || '8' || substr(md5(n::text || $4), 4, 15))::uuid as id
) i
"""
_LABELS = """
insert into run_label select namespace, l.key, l.value, id from run cross join lateral jsonb_each_text(labels) l
where labels is not null
"""
_ALL = RunFilter(namespace="acme")
_WANTED = {
    "newest": _ALL,
    "deep page": None,
    "instance": replace(_ALL, instance="agent-7"),
    "state dead": replace(_ALL, states=frozenset({RunState.DEAD})),
    "state queued": replace(_ALL, states=frozenset({RunState.QUEUED})),
    "state succeeded": replace(_ALL, states=frozenset({RunState.SUCCEEDED})),
    "state running (none)": replace(_ALL, states=frozenset({RunState.RUNNING})),
    "state cancelled (none)": replace(_ALL, states=frozenset({RunState.CANCELLED})),
    "dead, one instance": replace(_ALL, states=frozenset({RunState.DEAD}), instance="agent-50"),
    "dead, rare reason": replace(_ALL, states=frozenset({RunState.DEAD}), reason="HostRefused"),
    "label, frequent": replace(_ALL, labels={"team": "team-10"}),
    "label, rare": replace(_ALL, labels={"rare": "70"}),
    "two labels": replace(_ALL, labels={"team": "team-10", "rare": "110"}),
    "label, none": replace(_ALL, labels={"team": "nobody"}),
    "one day": replace(_ALL, created_from=_NOW - timedelta(days=9), created_to=_NOW - timedelta(days=8)),
    "template": replace(_ALL, template="template-7"),
    "revision": replace(_ALL, revision="r7"),
    "reason, rare": replace(_ALL, reason="HostRefused"),
    "reason, none": replace(_ALL, reason="Nothing"),
    "text, found at once": replace(_ALL, text="A-99999"),
    "text, one old run": replace(_ALL, text='"A-12345"'),
    "text, none": replace(_ALL, text="nowhere"),
}


async def fill(record: Harness, runs: int) -> None:
    """Write runs of two namespaces in turns, as they would have come."""
    assert record.database is not None
    step = 50_000
    async with record.database.acquire() as connection:
        await connection.execute("set statement_timeout = 0")
        for start in range(0, runs, step):
            for namespace in ("acme", "globex"):
                await connection.execute(
                    _FILL, start, min(start + step, runs), _NOW, namespace, runs, timeout=None
                )
        await connection.execute(_LABELS, timeout=None)
        await connection.execute("vacuum analyze run", timeout=None)
        await connection.execute("vacuum analyze run_label", timeout=None)


async def measure(record: Harness, wanted: RunFilter, times: int) -> tuple[float, float, int]:
    """Return p50 and p95 in milliseconds, and how many runs the page has."""
    took, found = [], 0
    for _ in range(times):
        began = time.perf_counter()
        found = len((await record.runs.list(wanted)).runs)
        took.append((time.perf_counter() - began) * 1000)
    took.sort()
    return statistics.median(took), took[int(len(took) * 0.95) - 1], found


async def run(url: str, runs: int, times: int) -> None:
    """Print a row for each filter."""
    database = Database(lambda: url)
    await migrate(database)
    await database.close()
    async with postgres_harness(url) as record:
        began = time.perf_counter()
        await fill(record, runs)
        print(f"2 x {runs:,} runs written in {time.perf_counter() - began:.0f} s; target p95 {TARGET_MS} ms")
        middle = replace(_ALL, created_to=_NOW - timedelta(seconds=1.5 * runs))
        somewhere = (await record.listed(middle))[0]
        for name, wanted in _WANTED.items():
            p50, p95, found = await measure(record, wanted or replace(_ALL, before=somewhere.id), times)
            mark = "" if p95 <= TARGET_MS else "  over the target"
            print(f"{name:<24}{found:>4} runs  p50 {p50:>7.1f} ms  p95 {p95:>7.1f} ms{mark}", flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=40)
    given = parser.parse_args()
    with running_postgres(shared_buffers="512MB", max_wal_size="4GB") as server:
        uvloop.run(run(server.url, given.runs, given.times))


if __name__ == "__main__":
    main()
