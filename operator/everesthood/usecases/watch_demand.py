"""Watch the work of instances: one question for all, and none while all is quiet.

Where somebody says how many workers there are, the work is looked at only to lower that number without
stopping a worker that holds a run.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from everesthood.apis.reasons import Reason
from everesthood.domain.scaling import NO_DEMAND, Course, Demand, Policy, Standing, decide, fix
from everesthood.usecases.ports.registry import Registry

PERIOD_SECONDS: Final = 1.0
_SHORTEST_SECONDS: Final = 0.05
_LEAVING_SECONDS: Final = 30.0
"""How often it is looked whether the pods of workers that leave are still there."""
_EVERYBODY: Final = "*"


@dataclass(slots=True, kw_only=True)
class _Watched:
    """One instance."""

    policies: Mapping[str, Policy] = field(default_factory=dict)
    standing: Mapping[str, Standing] = field(default_factory=dict)
    courses: dict[str, Course] = field(default_factory=dict)
    demand: Mapping[str, Demand] = field(default_factory=dict)
    read: bool = False
    acted_on: object = None
    """What the last pass over the instance knew."""
    acted_at: float = 0.0

    def decide(self, now: float) -> None:
        """Take what is known into account."""
        for revision, policy in self.policies.items():
            if policy.fixed:
                self.courses[revision] = fix(policy.minimum, self.standing.get(revision), known=self.read)
            elif self.read:
                self.courses[revision] = decide(
                    policy,
                    self.demand.get(revision, NO_DEMAND),
                    self.courses[revision],
                    available=self.standing.get(revision, Standing()).available,
                    now=now,
                )

    @property
    def is_quiet(self) -> bool:
        """Return whether all is as it should be and nothing is to be done before new work comes."""
        return self.read and all(self._is_quiet(revision) for revision in self.policies)

    def _is_quiet(self, revision: str) -> bool:
        course, demand = self.courses[revision], self.demand.get(revision, NO_DEMAND)
        there = self.standing.get(revision, Standing()).replicas
        arrived = there == course.replicas or self.policies[revision].fixed
        return course.quiet and arrived and not (demand.leaving or demand.asked)

    @property
    def untold(self) -> tuple[str, ...]:
        """Return the revisions whose next work must be told of."""
        follow = sorted(revision for revision, policy in self.policies.items() if not policy.fixed)
        return tuple(follow) if self.is_quiet else ()

    @property
    def signature(self) -> object:
        """Return what a pass acts on."""
        courses = {revision: (c.replicas, c.reason, c.late) for revision, c in self.courses.items()}
        leavers = {revision: (d.leaving, d.left) for revision, d in self.demand.items() if d.leaving}
        return courses, leavers, self.untold


class DemandWatch:
    """Knows how many workers each watched instance should have."""

    def __init__(self, registry: Registry, now: Callable[[], float]) -> None:
        """Watch nothing yet; `now` is a clock that only goes forward."""
        self.registry = registry
        self._now = now
        self._watched: dict[str, _Watched] = {}
        self._restless: dict[str, None] = {}
        """Instances that are looked at every second; the others are quiet."""
        self._stir = asyncio.Event()

    def follow(
        self,
        uid: str,
        policies: Mapping[str, Policy],
        standing: Mapping[str, Standing],
        *,
        reason: Reason | None = None,
    ) -> Mapping[str, Course]:
        """Return how many workers each revision should have; without policies the instance is left alone.

        `reason` is what was said of it last, by a process that may have known more.
        """
        if not policies:
            self.forget(uid)
            return {}
        watched = self._watched.setdefault(uid, _Watched())
        if policies != watched.policies and any(p.fixed for p in policies.values()):
            # What is known may be of long ago, and what was decided by it.
            watched.demand, watched.courses, watched.read = {}, {}, False
        watched.policies, watched.standing = policies, standing
        kept = {r: c for r, c in watched.courses.items() if c.reason is not Reason.FIXED_NUMBER}
        watched.courses = {
            revision: kept.get(revision) or _seed(policy, standing.get(revision), reason, self._now())
            for revision, policy in policies.items()
        }
        watched.decide(self._now())
        watched.acted_on, watched.acted_at = watched.signature, self._now()
        if not watched.is_quiet:
            self._excite(uid)
        return dict(watched.courses)

    def demand(self, uid: str, revision: str) -> Demand:
        """Return what was last read of a revision."""
        watched = self._watched.get(uid)
        return watched.demand.get(revision, NO_DEMAND) if watched else NO_DEMAND

    def quiet(self, uid: str) -> tuple[str, ...]:
        """Return the revisions whose next work must be told of."""
        watched = self._watched.get(uid)
        return watched.untold if watched else ()

    def doubt(self, uid: str) -> None:
        """Have the next look lead to a pass, whatever it finds: the last one could not do what it wanted."""
        if uid in self._watched:
            self._watched[uid].acted_on = None
            self._excite(uid)

    def forget(self, uid: str) -> None:
        """Watch an instance no longer."""
        self._watched.pop(uid, None)
        self._restless.pop(uid, None)

    def wake(self, uid: str) -> None:
        """Hear that an instance has work."""
        for one in self._watched if uid == _EVERYBODY else (uid,):
            if one in self._watched and one not in self._restless:
                self._excite(one)

    async def look(self, only: Collection[str] | None = None) -> list[str]:
        """Ask for the work of all that is not quiet; return the instances that are to be looked at.

        Raises:
            Unavailable: the record cannot be asked.
        """
        asked = [uid for uid in (self._restless if only is None else only) if uid in self._watched]
        if not asked:
            return []
        most = {uid: max(p.most_due for p in self._watched[uid].policies.values()) for uid in asked}
        found = await self.registry.demand(most)
        return [uid for uid in asked if uid in self._watched and self._learn(uid, found.get(uid, {}))]

    def _learn(self, uid: str, demand: Mapping[str, Demand]) -> bool:
        """Take in what was read; return whether that is news for a pass."""
        watched, now = self._watched[uid], self._now()
        on_an_earlier_word = not watched.read and any(d.asked for d in demand.values())
        watched.demand, watched.read = demand, True
        watched.decide(now)
        if watched.is_quiet:
            self._restless.pop(uid, None)
        else:
            self._excite(uid)
        leaving = any(d.leaving for d in demand.values())
        stale = leaving and now - watched.acted_at >= _LEAVING_SECONDS
        return stale or on_an_earlier_word or watched.signature != watched.acted_on

    async def rest(self) -> None:
        """Wait until it is time to look: a moment while something is watched, else until somebody tells."""
        await asyncio.sleep(_SHORTEST_SECONDS)
        if self._restless:
            with suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_SECONDS):
                    await self._stir.wait()
        else:
            await self._stir.wait()
        self._stir.clear()

    def numbers(self) -> Iterator[tuple[Reason, int, int]]:
        """Yield why, how many workers there should be and how many are up, for each watched revision."""
        for watched in self._watched.values():
            for revision, course in watched.courses.items():
                standing = watched.standing.get(revision, Standing())
                yield course.reason, course.replicas, standing.available

    def _excite(self, uid: str) -> None:
        if uid not in self._restless:
            self._restless[uid] = None
            self._stir.set()


def _seed(policy: Policy, standing: Standing | None, reason: Reason | None, now: float) -> Course:
    """Begin with what is there; nothing is taken away before it was watched for a while."""
    replicas = policy.minimum if standing is None else standing.replicas
    return Course(replicas=replicas, reason=reason or Reason.AT_MINIMUM, grown_at=now)
