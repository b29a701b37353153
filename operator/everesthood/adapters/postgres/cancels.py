"""Cancellations that follow from others: of what a run waits for, once it is cancelled or too late."""

from collections.abc import Collection, Sequence
from contextlib import suppress

from everesthood.adapters.postgres import rows
from everesthood.adapters.postgres.announce import Announcer
from everesthood.adapters.postgres.pool import Connection, Database, again, sql
from everesthood.apis import names
from everesthood.domain.errors import EveresthoodError
from everesthood.domain.runs import GRACE_SECONDS, Next, RunId, after_parent


async def cancel_runs(connection: Connection, verdicts: Sequence[tuple[str, Next, str]]) -> list[str]:
    """Write what was decided for locked runs, each with who cancels it; return the runs."""
    await connection.execute(
        sql("cancel_runs"),
        [run for run, _, _ in verdicts],
        [rows.CODES[becomes.state] for _, becomes, _ in verdicts],
        [becomes.reason for _, becomes, _ in verdicts],
        [becomes.message for _, becomes, _ in verdicts],
        float(GRACE_SECONDS),
        [actor for _, _, actor in verdicts],
    )
    return [run for run, _, _ in verdicts]


async def cancel_child_runs(database: Database, announcer: Announcer, parents: Collection[str]) -> None:
    """Cancel the open children of those of these runs that let go of them, and theirs in turn.

    To be called once what became of the parents is committed: a child that is accepted at this very moment
    is seen here, or else whoever accepts it sees what became of its parent. Once more does no harm.
    """
    while parents:
        parents = await again(lambda: _cancel_children(database, list(parents)))  # noqa: B023 - awaited at once
        announcer.changed(parents)


async def cancel_child_runs_if_possible(
    database: Database, announcer: Announcer, parents: Collection[str]
) -> None:
    """Cancel the children where all else is committed: if it fails, they end at their own deadlines."""
    with suppress(EveresthoodError):
        await cancel_child_runs(database, announcer, parents)


async def _cancel_children(database: Database, parents: list[str]) -> list[str]:
    async with database.transaction() as connection:
        found = await connection.fetch(sql("lock_child_runs"), parents, names.RUN_LABEL_PARENT)
        verdicts = [
            (row["id"], becomes, f"run/{row['parent']}")
            for row in found
            if (
                becomes := after_parent(
                    rows.STATES[row["state"]], RunId(row["parent"]), rows.STATES[row["parent_state"]]
                )
            )
        ]
        return await cancel_runs(connection, verdicts) if verdicts else []
