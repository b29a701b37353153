"""What people decide about runs, queues and organisations."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar
from uuid import UUID

import msgspec

from everesthood.adapters.postgres import rows
from everesthood.adapters.postgres.announce import Announcer, Waker
from everesthood.adapters.postgres.cancels import cancel_child_runs
from everesthood.adapters.postgres.listen import CANCELS, REGISTRY, Listener
from everesthood.adapters.postgres.pool import Connection, Database, Row, again, sql
from everesthood.apis.reasons import Reason
from everesthood.domain.approvals import SCHEDULER, Decision, Question, Settled, settle, settle_unanswered
from everesthood.domain.doubts import Resolution, resolve
from everesthood.domain.errors import Conflict, NotFound
from everesthood.domain.queues import QueueView, Stop
from everesthood.domain.runs import GRACE_SECONDS, RunId
from everesthood.usecases.ports.control import Actor, Ring, run_target

_T = TypeVar("_T")


class PostgresControl:
    """The port `ControlStore`."""

    def __init__(self, database: Database) -> None:
        """Use the process's pool."""
        self._database = database
        self._announcer = Announcer(database)
        self._waker = Waker(database)

    async def decide(self, said: Decision) -> Sequence[Ring]:
        """Answer a question of a run."""

        async def once(connection: Connection) -> list[Ring]:
            row = await _locked(connection, said.namespace, said.run)
            settled = await _settled(connection, row, said)
            if settled is None:
                return []
            action = "run.approve" if said.approved else "run.reject"
            answer = _answer((said.run, said.step), settled, by=said.actor, comment=said.comment)
            await _write(connection, [(*answer, action, said.request_id)])
            return await _rings(connection, [row["instance_uid"]])

        rings = await self._transaction(once)
        self._announcer.changed([said.run])
        await self._waker.wake(rings)
        return rings

    async def resolve(self, said: Resolution) -> Sequence[Ring]:
        """Let an ambiguous run go on, or end it."""

        async def once(connection: Connection) -> tuple[str, list[Ring]]:
            row = await _locked(connection, said.namespace, said.run)
            doubts = [found["name"] for found in await connection.fetch(sql("doubts"), said.run)]
            resolved = resolve(rows.STATES[row["state"]], doubts, said)
            if said.answer != "giveUp" and not await connection.fetchval(sql("is_live"), row["instance_uid"]):
                raise Conflict(
                    "The AgentInstance was deleted; the run cannot go on.", Reason.INSTANCE_DELETED
                )
            becomes, about = resolved.becomes, resolved.done or said.step
            await connection.execute(
                sql("resolve"),
                *(said.run, rows.CODES[becomes.state], becomes.reason, rows.text(becomes.message)),
                *(resolved.done, said.output.decode(), list(resolved.forgotten)),
                *(said.actor, f"run.resolve.{said.answer}", run_target(said.run, about), said.request_id),
            )
            return row["instance_uid"], await _rings(connection, [row["instance_uid"]])

        uid, rings = await self._transaction(once)
        self._announcer.changed([said.run])
        await self._database.notify(REGISTRY, uid)
        await self._waker.wake(rings)
        return rings

    async def queues(self, namespace: str, instance: str | None = None) -> Sequence[QueueView]:
        """Return the queues of a namespace by name."""
        return [_view(row) for row in await self._database.fetch("queues", namespace, instance)]

    async def pause(self, namespace: str, instance: str, actor: Actor) -> bool:
        """Hand out nothing of the queue any more."""
        row = await self._database.row("pause", namespace, instance, actor.name, actor.request_id)
        if row is not None:
            await self._database.notify(REGISTRY, row["uid"])
        return row is not None

    async def resume(self, namespace: str, instance: str, actor: Actor) -> Sequence[Ring] | None:
        """Hand out again."""
        row = await self._database.row("resume", namespace, instance, actor.name, actor.request_id)
        if row is None:
            return None
        await self._database.notify(REGISTRY, row["uid"])
        found = await self._database.fetch("bells_of", [row["uid"]])
        rings = [(bell["instance_uid"], bell["revision"]) for bell in found]
        await self._waker.wake(rings)
        return rings

    async def stop(self, namespace: str, actor: Actor, *, message: str, cancels: bool) -> Stop:
        """Accept and hand out nothing in the namespace any more."""
        values = (namespace, actor.name, rows.text(message), cancels, actor.request_id)

        async def once(connection: Connection) -> list[str]:
            # Publishing waits: an instance that is new now must see the stop.
            await connection.execute("lock table instance in share row exclusive mode")
            if await connection.fetchrow(sql("stop_organization"), *values) is None:
                return []
            return await _mark(connection, namespace, stopped=True)

        uids = await self._transaction(once)
        stop = await self.stopped(namespace)
        if stop is None:
            raise Conflict("The organisation was started again at this very moment.")
        if stop.cancels:
            await _cancel(self._database, self._announcer, namespace, stop)
        await self._tell(uids)
        return stop

    async def start(self, namespace: str, actor: Actor) -> Sequence[Ring]:
        """Let the namespace work again."""

        async def once(connection: Connection) -> tuple[list[str], list[Ring]]:
            await connection.execute("lock table instance in share row exclusive mode")
            if (
                await connection.fetchrow(sql("start_organization"), namespace, actor.name, actor.request_id)
                is None
            ):
                return [], []
            uids = await _mark(connection, namespace, stopped=False)
            return uids, await _rings(connection, uids)

        uids, rings = await self._transaction(once)
        await self._tell(uids)
        await self._waker.wake(rings)
        return rings

    async def stopped(self, namespace: str) -> Stop | None:
        """Return the stop that holds the namespace."""
        row = await self._database.row("stops", namespace)
        return None if row is None else rows.stop(row)

    async def _transaction(self, once: Callable[[Connection], Awaitable[_T]]) -> _T:
        async def whole() -> _T:
            async with self._database.transaction() as connection:
                return await once(connection)

        return await again(whole)

    async def _tell(self, uids: Sequence[str]) -> None:
        for uid in uids:
            await self._database.notify(REGISTRY, uid)

    async def close(self) -> None:
        """Tell what is left."""
        await self._waker.close()
        await self._announcer.close()


class PostgresCancellations:
    """The port `Cancellations`."""

    def __init__(self, listener: Listener) -> None:
        """Use the process's listener."""
        self._listener = listener
        self._is_released = False

    def release(self) -> None:
        """Let everybody go who waits, now and later: the process is about to end."""
        self._is_released = True
        self._listener.wake(CANCELS)

    async def of(self, instance_uid: str) -> AsyncIterator[None]:
        """Yield whenever a running run of the instance may have been cancelled."""
        if self._is_released:
            yield
            return
        async with aclosing(self._listener.subscribe(CANCELS, instance_uid)) as told:
            async for _ in told:
                yield


async def expire_approvals(connection: Connection, limit: int) -> list[str]:
    """End questions whose deadline passed; return their runs."""
    await connection.execute(sql("drop_approvals"))
    found = await connection.fetch(sql("expired_approvals"), limit)
    lines = []
    for row in found:
        settled = settle_unanswered(rows.STATES[row["state"]], row["step"])
        answer = _answer((row["id"], row["step"]), settled, by=SCHEDULER, comment="")
        lines.append((*answer, "run.approval-expire", ""))
    if lines:
        await _write(connection, lines)
    return [row["id"] for row in found]


async def cancel_stopped(database: Database, announcer: Announcer) -> int:
    """Cancel what runs in organisations whose stop says so; return how many runs."""
    found = await database.fetch("stops", None)
    stops = [(row["namespace"], rows.stop(row)) for row in found if row["cancels"]]
    return sum([await _cancel(database, announcer, name, stop) for name, stop in stops if stop is not None])


async def _cancel(database: Database, announcer: Announcer, namespace: str, stop: Stop) -> int:
    values = (namespace, Reason.ORGANIZATION_STOPPED, str(stop), stop.by, float(GRACE_SECONDS))
    found = await database.fetch("cancel_stopped", *values)
    announcer.changed(row["id"] for row in found)
    await cancel_child_runs(database, announcer, [row["id"] for row in found])
    return len(found)


async def _locked(connection: Connection, namespace: str, run: RunId) -> Row:
    row = await connection.fetchrow(sql("lock_run"), run, namespace) if _is_id(run) else None
    if row is None:
        raise NotFound(f"There is no run {run!r} in namespace {namespace!r}.")
    return row


async def _settled(connection: Connection, row: Row, said: Decision) -> Settled | None:
    # By itself, after the lock: it must see what the former holder of the lock has committed.
    asked = await connection.fetchrow(sql("approval"), said.run, rows.text(said.step))
    if asked is None:
        raise NotFound(f"Run {said.run} asks nothing in {said.step!r}.", Reason.APPROVAL_NOT_FOUND)
    question = Question(
        run_state=rows.STATES[row["state"]],
        deadline_at=asked["deadline_at"],
        on_reject=asked["on_reject"],
        verdict=asked["verdict"],
        decided_by=asked["decided_by"],
    )
    return settle(question, said, asked["now"])


def _answer(about: tuple[str, str], settled: Settled, *, by: str, comment: str) -> tuple[object, ...]:
    """Return the first columns of `decide`."""
    becomes = settled.becomes
    return (
        *about,
        settled.verdict,
        by,
        rows.text(comment),
        rows.STEP_CODES[settled.step_state],
        None if settled.output is None else rows.text(msgspec.json.encode(settled.output).decode()),
        settled.reason,
        rows.text(settled.message),
        None if becomes is None else rows.CODES[becomes.state],
        None if becomes is None else becomes.reason,
        "" if becomes is None else rows.text(becomes.message),
    )


async def _write(connection: Connection, lines: Sequence[tuple[object, ...]]) -> None:
    await connection.execute(sql("decide"), *[list(column) for column in zip(*lines, strict=True)])


async def _mark(connection: Connection, namespace: str, *, stopped: bool) -> list[str]:
    found = await connection.fetch(sql("lock_instances"), namespace)
    await connection.execute(sql("mark_stopped"), namespace, stopped)
    return [row["uid"] for row in found]


async def _rings(connection: Connection, uids: Sequence[str]) -> list[Ring]:
    found = await connection.fetch(sql("bells_of"), list(uids))
    return [(row["instance_uid"], row["revision"]) for row in found]


def _view(row: Row) -> QueueView:
    return QueueView(
        namespace=row["namespace"],
        instance=row["instance"],
        suspended=row["suspended"],
        current_revision=row["current_revision"],
        pause=rows.pause(row),
        stop=rows.stop(row),
        due=row["due"],
        later=row["later"],
        running=row["running"],
        waiting=row["waiting"],
        oldest_due_at=row["oldest_due_at"],
    )


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
