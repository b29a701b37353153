"""Runs for the web API: accepted in batches, read one by one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final
from uuid import UUID

from everesthood.adapters.postgres import limits, listing, rows
from everesthood.adapters.postgres.accepts import DedupedAccepts, columns, repeated
from everesthood.adapters.postgres.announce import Announcer
from everesthood.adapters.postgres.batches import Batches
from everesthood.adapters.postgres.cancels import cancel_child_runs
from everesthood.adapters.postgres.listen import CANCELS, DEMAND, RUNS, Listener
from everesthood.adapters.postgres.pool import Connection, Database, again, sql
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Conflict, EveresthoodError, NotFound
from everesthood.domain.limits import Denial, longest
from everesthood.domain.queues import STOPPED
from everesthood.domain.runs import GRACE_SECONDS, Run, RunId, RunRequest, after_cancel
from everesthood.domain.steps import LISTED_OUTPUT_BYTES
from everesthood.usecases.ports.record import (
    Accepted,
    InstanceTarget,
    Page,
    RunFilter,
    StoredLine,
    StoredSchedule,
    StoredStep,
)

_LOOK_SECONDS: Final = 5.0
"""A watcher looks this often even when nobody tells it of a change."""


class PostgresRuns:
    """The port `RunStore`."""

    def __init__(self, database: Database, listener: Listener) -> None:
        """Use the process's pool and listener."""
        self._database = database
        self._listener = listener
        self._announcer = Announcer(database)
        self._targets: Batches[tuple[str, str], InstanceTarget | None] = Batches(
            self._find, lane=lambda wanted: wanted[0]
        )
        self._accepts: Batches[RunRequest, Accepted] = Batches(self._accept, lane=_organization)
        self._waker = Announcer(database, DEMAND)
        self._deduped: Batches[RunRequest, Accepted] = Batches(
            DedupedAccepts(database, self._announcer, self._waker), lane=_organization
        )

    async def target(self, namespace: str, instance: str) -> InstanceTarget | None:
        """Return the published instance of that name, looked up together with others asked for meanwhile."""
        return await self._targets.submit((namespace, instance))

    async def _find(self, batch: Sequence[tuple[str, str]]) -> Sequence[InstanceTarget | None]:
        wanted = list(dict.fromkeys(batch))
        found = await self._database.fetch("target", [n for n, _ in wanted], [name for _, name in wanted])
        targets = {(place := wanted[row["k"] - 1]): rows.target(*place, row=row) for row in found}
        return [targets.get(one) for one in batch]

    async def accept(self, request: RunRequest) -> Accepted:
        """Commit the run, together with others that come at the same time."""
        batches = self._accepts if request.dedupe is None else self._deduped
        return await batches.submit(request)

    async def _accept(self, batch: Sequence[RunRequest]) -> Sequence[Accepted | EveresthoodError]:
        inserted = await self._database.fetch("accept", *columns(batch), [r.schedule for r in batch])
        rings = {row["id"]: row["revision"] for row in inserted if not row["stopped"]}
        stopped = {row["id"] for row in inserted if row["stopped"]}
        woken = {row["id"] for row in inserted if row["wakes"]}
        self._waker.changed(r.instance_uid for r in batch if r.id in woken)
        missing = [r for r in batch if str(r.id) not in rings]
        earlier = await self._earlier(missing)
        return [self._answer(request, rings, earlier, stopped) for request in batch]

    async def _earlier(self, missing: Sequence[RunRequest]) -> dict[tuple[str, str], tuple[bytes, RunId]]:
        keyed = [(r.instance_uid, r.idempotency_key) for r in missing if r.idempotency_key is not None]
        if not keyed:
            return {}
        found = await self._database.fetch("earlier", [uid for uid, _ in keyed], [key for _, key in keyed])
        return {(r["instance_uid"], r["key"]): (r["digest"], RunId(r["run"])) for r in found}

    def _answer(
        self,
        request: RunRequest,
        rings: dict[str, str | None],
        earlier: dict[tuple[str, str], tuple[bytes, RunId]],
        stopped: set[str],
    ) -> Accepted | EveresthoodError:
        if request.id in rings:
            revision = rings[request.id]
            ring = None if revision is None else (request.instance_uid, revision)
            return Accepted(run=request.id, ring=ring)
        known = earlier.get((request.instance_uid, request.idempotency_key or ""))
        if known is None and request.id in stopped:
            return Conflict(STOPPED, Reason.ORGANIZATION_STOPPED)
        if known is None:
            return NotFound("The AgentInstance was deleted.", Reason.INSTANCE_NOT_FOUND)
        return repeated(request, *known)

    async def get(self, namespace: str, run: RunId) -> Run | None:
        """Return the run if it is in that namespace; an id that is none is nowhere."""
        if not _is_id(run):
            return None
        row = await self._database.row("get_run", run, namespace)
        return None if row is None else rows.run(row)

    async def list(self, wanted: RunFilter) -> Page:
        """Return a page, newest first."""
        return await listing.page(self._database, wanted)

    async def kept_back(self, run: Run) -> Denial | None:
        """Return which limit keeps a due run back."""
        gates, now = await limits.gates_of(self._database, run.instance_uid, run.namespace)
        return None if now is None else longest(gates, now)

    async def steps(self, run: RunId, after: int = 0, limit: int = 1000) -> Sequence[StoredStep]:
        """Return steps with a greater `seq`."""
        found = await self._database.fetch("steps", run, after, limit, LISTED_OUTPUT_BYTES)
        return [StoredStep(**(dict(row) | {"output": _bytes(row["output"])})) for row in found]

    async def output(self, run: RunId, step: str) -> bytes | None:
        """Return the output of one step."""
        row = await self._database.row("output", run, step)
        return None if row is None else _bytes(row["output"])

    async def log(self, run: RunId, after: int = 0, limit: int = 1000) -> Sequence[StoredLine]:
        """Return lines with a greater `seq`."""
        return [StoredLine(**dict(row)) for row in await self._database.fetch("log", run, after, limit)]

    async def cancel(
        self,
        namespace: str,
        run: RunId,
        actor: str,
        request_id: str,
        grace_seconds: float = GRACE_SECONDS,
    ) -> Run | None:
        """Cancel a waiting run, mark a running one."""
        if not _is_id(run):
            return None

        async def once() -> str | None:
            async with self._database.transaction() as connection:
                return await _cancel(connection, namespace, run, (actor, request_id, grace_seconds))

        if (told := await again(once)) is not None:
            self._announcer.changed([run])
            await self._database.notify(CANCELS, told)
        await cancel_child_runs(self._database, self._announcer, [run])
        return await self.get(namespace, run)

    async def schedules(self, instance_uid: str) -> Sequence[StoredSchedule]:
        """Return the schedules of an instance by name."""
        return [rows.stored_schedule(row) for row in await self._database.fetch("schedules", instance_uid)]

    async def watch(self, run: RunId) -> AsyncIterator[None]:
        """Yield when somebody told of the run, and every few seconds in case nobody could."""
        async with aclosing(self._listener.subscribe(RUNS, run)) as told:
            pending = asyncio.ensure_future(anext(told))
            try:
                while True:
                    await asyncio.wait([pending], timeout=_LOOK_SECONDS)
                    if pending.done():
                        pending.result()
                        pending = asyncio.ensure_future(anext(told))
                    yield
            finally:
                pending.cancel()
                await asyncio.wait([pending])

    async def close(self) -> None:
        """Wait for what is under way."""
        await self._targets.close()
        await self._accepts.close()
        await self._deduped.close()
        await self._waker.close()
        await self._announcer.close()


def _organization(request: RunRequest) -> str:
    return request.namespace


async def _cancel(
    connection: Connection, namespace: str, run: RunId, how: tuple[str, str, float]
) -> str | None:
    """Return the uid of the run's instance if something changed."""
    row = await connection.fetchrow(sql("lock_run"), run, namespace)
    becomes = None if row is None else after_cancel(rows.STATES[row["state"]], how[0])
    if row is None or becomes is None or row["cancel_requested"]:
        return None
    state, reason = rows.CODES[becomes.state], becomes.reason
    await connection.execute(sql("cancel"), run, state, reason, rows.text(becomes.message), *how)
    return str(row["instance_uid"])


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
