"""What the controller publishes and reads back."""

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import aclosing

from everesthood.adapters.postgres import limits, rows, schedules
from everesthood.adapters.postgres.announce import Announcer
from everesthood.adapters.postgres.cancels import cancel_child_runs_if_possible
from everesthood.adapters.postgres.listen import DEMAND, QUEUES, REGISTRY, Listener
from everesthood.adapters.postgres.pool import Connection, Database, again, sql
from everesthood.domain.runs import GRACE_SECONDS, RunState, after_removal
from everesthood.domain.scaling import Demand
from everesthood.usecases.ports.registry import (
    CredentialObservation,
    PublishedCredential,
    PublishedInstance,
    PublishedRevision,
    PublishedTemplate,
    QueueState,
)


class PostgresRegistry:
    """The port `Registry`."""

    def __init__(self, database: Database, listener: Listener) -> None:
        """Use the process's pool and listener."""
        self._database = database
        self._listener = listener
        self._announcer = Announcer(database)

    async def publish_instance(self, instance: PublishedInstance) -> None:
        """Write the instance; an older one of the same name gives way."""
        values = (
            instance.uid,
            instance.namespace,
            instance.name,
            instance.generation,
            instance.template,
            instance.service_account,
            instance.current_revision,
            rows.text(instance.config.decode()),
            json.dumps(instance.bindings),
            instance.suspended,
            list(instance.quiet),
        )

        async def once() -> tuple[bool, list[str]]:
            async with self._database.transaction() as connection:
                others = await connection.fetch(
                    sql("namesakes"), instance.namespace, instance.name, instance.uid
                )
                removed = [run for row in others for run in await _remove(connection, row["uid"])]
                row = await connection.fetchrow(sql("publish_instance"), *values)
                await schedules.publish(connection, instance)
                await limits.publish_instance(connection, instance)
                return bool(others) or (row is not None and row["fresh"]), removed

        fresh, removed = await again(once)
        self._announcer.changed(removed)
        await cancel_child_runs_if_possible(self._database, self._announcer, removed)
        if fresh:
            await self._database.notify(QUEUES, instance.uid)

    async def publish_revision(self, revision: PublishedRevision) -> None:
        """Keep the first content of a digest."""
        spec = rows.text(revision.spec.decode())
        await self._database.fetch(
            "publish_revision", revision.namespace, revision.digest, revision.template, spec
        )

    async def publish_template(self, template: PublishedTemplate) -> None:
        """Write the template with its limits; an older one of the same name gives way."""
        values = (template.uid, template.namespace, template.name, template.generation)

        async def once() -> None:
            async with self._database.transaction() as connection:
                await connection.execute(
                    sql("replace_template"), template.namespace, template.name, template.uid
                )
                await connection.execute(sql("publish_template"), *values)
                await limits.publish_template(connection, template)

        await again(once)

    async def publish_credential(self, credential: PublishedCredential) -> None:
        """Write the credential; another Secret or key is looked at anew."""
        values = (
            credential.uid,
            credential.namespace,
            credential.name,
            credential.generation,
            credential.type,
            credential.header,
            credential.secret_name,
            credential.secret_key,
            list(credential.hosts),
            list(credential.allowed_instances),
        )

        async def once() -> None:
            async with self._database.transaction() as connection:
                await connection.execute(
                    sql("drop_namesake"), credential.namespace, credential.name, credential.uid
                )
                await connection.execute(sql("publish_credential"), *values)
                await limits.publish_credential(connection, credential)

        await again(once)

    async def remove_instance(self, uid: str) -> None:
        """Cancel what waits, mark what runs and the instance itself, in one transaction."""

        async def once() -> list[str]:
            async with self._database.transaction() as connection:
                return await _remove(connection, uid)

        removed = await again(once)
        self._announcer.changed(removed)
        await cancel_child_runs_if_possible(self._database, self._announcer, removed)
        await self._database.notify(QUEUES, uid)

    async def remove_template(self, uid: str) -> None:
        """Forget the template's limits."""
        await self._database.fetch("remove_template", uid)

    async def remove_credential(self, uid: str) -> None:
        """Forget the credential."""
        await self._database.fetch("remove_credential", uid)

    async def known_instances(self) -> frozenset[str]:
        """Return the uids of instances that are not deleted."""
        return frozenset(row["uid"] for row in await self._database.fetch("known_instances"))

    async def known_templates(self) -> frozenset[str]:
        """Return the uids of all templates."""
        return frozenset(row["uid"] for row in await self._database.fetch("known_templates"))

    async def known_credentials(self) -> frozenset[str]:
        """Return the uids of all credentials."""
        return frozenset(row["uid"] for row in await self._database.fetch("known_credentials"))

    async def queue_state(self, uid: str) -> QueueState:
        """Return how far the instance's queue is."""
        row = await self._database.row("queue_state", uid)
        if row is None:
            return QueueState(ready=False, open_revisions=frozenset())
        return QueueState(
            ready=row["ready"],
            open_revisions=frozenset(row["open_revisions"]),
            pause=rows.pause(row),
            stop=rows.stop(row),
        )

    async def credential_state(self, uid: str) -> CredentialObservation | None:
        """Return what the gateway saw."""
        row = await self._database.row("credential_state", uid)
        return None if row is None else CredentialObservation(**dict(row))

    async def changes(self) -> AsyncIterator[str]:
        """Yield uids of instances and credentials whose state changed; `*` means any of them."""
        async with aclosing(self._listener.subscribe(REGISTRY)) as told:
            async for keys in told:
                for key in keys:
                    yield key

    async def demand(self, most: Mapping[str, int]) -> Mapping[str, Mapping[str, Demand]]:
        """Return what there is to do, in one statement for all."""
        found: defaultdict[str, dict[str, Demand]] = defaultdict(dict)
        for row in await self._database.fetch("demand", list(most), list(most.values())):
            said = {name: value for name, value in row.items() if name not in {"uid", "revision"}}
            pods = {name: tuple(said[name]) for name in ("leaving", "left")}
            found[row["uid"]][row["revision"]] = Demand(**said | pods)
        return found

    async def ask_to_leave(self, uid: str, revision: str, count: int, *, drain: bool) -> None:
        """Say how many workers may leave."""
        await self._database.fetch("ask_to_leave", uid, revision, count, drain)

    async def forget_leavers(self, uid: str, revision: str, pods: Collection[str]) -> None:
        """Forget workers that are gone."""
        await self._database.fetch("forget_leavers", uid, revision, list(pods))

    async def demanded(self) -> AsyncIterator[str]:
        """Yield uids of instances that have work and quiet workers; `*` means any of them."""
        async with aclosing(self._listener.subscribe(DEMAND)) as told:
            async for keys in told:
                for key in keys:
                    yield key

    async def close(self) -> None:
        """Tell what is left."""
        await self._announcer.close()


async def _remove(connection: Connection, uid: str) -> list[str]:
    """Mark the instance deleted, which waits for accepts under way, then end its runs.

    Schedules go between, which waits for those that are being fired, so that their runs are ended too.
    """
    if await connection.fetchrow(sql("delete_instance"), uid) is None:
        return []
    await connection.execute(sql("remove_schedules"), uid, [])
    await connection.execute(sql("remove_limits"), uid)
    becomes = after_removal(RunState.QUEUED)
    reason, message = (becomes.reason, becomes.message) if becomes else (None, "")
    found = await connection.fetch(sql("cancel_waiting"), uid, reason, message, float(GRACE_SECONDS))
    return [row["id"] for row in found]
