"""What is old, kept in memory until it is forgotten."""

from collections import Counter
from itertools import islice

from everesthood.adapters.memory.record import Record
from everesthood.domain.keeping import Bounds, Keeping, bounds, is_old
from everesthood.domain.runs import RunId
from everesthood.usecases.ports.keeping import Forgotten, Kind


class MemoryKeeping:
    """The port `KeepStore` over a `Record`."""

    def __init__(self, record: Record) -> None:
        """Share the tables with the other views."""
        self._record = record

    async def forget(self, kind: Kind, keeping: Keeping, after: str | None, limit: int) -> Forgotten:
        """Look at some rows of a kind and forget the old ones."""
        with self._record.reach():
            old = bounds(keeping, self._record.now())
            match kind:
                case "runs":
                    return self._runs(old, after or "", limit)
                case "log_lines":
                    return self._lines(old, after or "", limit)
                case "keys":
                    return self._keys(old, limit)
                case "audit":
                    return self._audit(old, limit)

    def _runs(self, old: Bounds, after: str, limit: int) -> Forgotten:
        walked = self._walk(after, limit)
        counts: Counter[str] = Counter()
        for run in walked:
            row = self._record.rows[run]
            if is_old(row.state, row.finished_at, old):
                counts.update(runs=1, steps=len(row.steps), log_lines=len(row.log))
                del self._record.rows[run]
        return Forgotten(counts=counts, next=walked[-1] if len(walked) == limit else None)

    def _lines(self, old: Bounds, after: str, limit: int) -> Forgotten:
        walked = self._walk(after, limit)
        gone = 0
        for run in walked:
            row = self._record.rows[run]
            kept = [line for line in row.log if line.at >= old.log_lines]
            gone += len(row.log) - len(kept)
            row.log = kept
        following = walked[-1] if len(walked) == limit else None
        return Forgotten(counts={"log_lines": gone}, next=following)

    def _keys(self, old: Bounds, limit: int) -> Forgotten:
        gone = list(islice((key for key, at in self._record.keyed_at.items() if at < old.keys), limit))
        for key in gone:
            del self._record.keyed_at[key]
            del self._record.idempotency[key]
        return Forgotten(counts={"keys": len(gone)}, next="" if len(gone) == limit else None)

    def _audit(self, old: Bounds, limit: int) -> Forgotten:
        gone = sum(at < old.audit for at in islice(self._record.audit.times, limit))
        self._record.audit.forget_first(gone)
        return Forgotten(counts={"audit_lines": gone}, next="" if gone == limit else None)

    def _walk(self, after: str, limit: int) -> list[RunId]:
        return sorted(run for run in self._record.rows if run > after)[:limit]
