"""Cancellations that follow from others, in memory."""

from collections.abc import Collection

from everesthood.adapters.memory.record import Record, RunRow
from everesthood.apis import names
from everesthood.domain.runs import FINAL, RunId, RunState, after_parent, lets_go
from everesthood.usecases.ports.control import run_target
from everesthood.usecases.ports.record import AuditEntry


def cancel_child_runs(record: Record, parents: Collection[str]) -> None:
    """Cancel the open children of those of these runs that let go of them, and theirs in turn."""
    for parent in parents:
        row = record.rows.get(RunId(parent))
        if row is not None and lets_go(row.state, cancel_requested=row.cancel_requested):
            cancel_child_runs(record, [_cancel(record, child, row) for child in _open_children(record, row)])


def _open_children(record: Record, parent: RunRow) -> list[RunRow]:
    asked = parent.request
    return [
        row
        for row in record.rows.values()
        if row.request.namespace == asked.namespace
        and row.request.labels.get(names.RUN_LABEL_PARENT) == asked.id
        and row.state not in FINAL
        and not row.cancel_requested
    ]


def _cancel(record: Record, row: RunRow, parent: RunRow) -> RunId:
    above = parent.request.id
    becomes = after_parent(row.state, above, parent.state)
    if becomes is not None and becomes.state is RunState.RUNNING:
        record.cancel(row, becomes.reason, becomes.message)
    elif becomes is not None:
        record.end(row, becomes)
        row.cancel_requested = True
    record.audit.append(
        AuditEntry(
            namespace=row.request.namespace,
            actor=f"run/{above}",
            action="run.cancel",
            target=run_target(row.request.id),
        )
    )
    return row.request.id
