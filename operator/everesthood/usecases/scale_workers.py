"""Bring the number of an instance's workers closer to what its work needs."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from everesthood.apis.reasons import Reason
from everesthood.domain import sizes
from everesthood.domain.errors import Unavailable
from everesthood.domain.instances import Observed, Plan
from everesthood.domain.scaling import Chosen, Course, Demand, Standing, approach
from everesthood.usecases.ports.cluster import Cluster
from everesthood.usecases.watch_demand import DemandWatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """How many workers there are to be, and whom to forget once that is so."""

    chosen: Mapping[str, Chosen] = field(default_factory=dict)
    left: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleWorkers:
    """The use case with what it needs."""

    cluster: Cluster
    watch: DemandWatch
    grace_seconds: int

    async def __call__(self, seen: Observed, plan: Plan) -> Scaled:
        """Do what comes before the Deployments change: delete the pods of workers that have left."""
        policies = sizes.policies(seen, plan, self.grace_seconds)
        standing = sizes.standings(seen, plan)
        said = seen.status.workers.reason or ""
        known = said in Reason._value2member_map_ and said != Reason.FIXED_NUMBER
        reason = Reason(said) if known else None
        chosen: dict[str, Chosen] = {}
        left: dict[str, tuple[str, ...]] = {}
        for revision, course in self.watch.follow(seen.live.uid, policies, standing, reason=reason).items():
            there = standing.get(revision)
            demand = await self._present(seen, revision)
            chosen[revision] = await self._approach(seen, revision, course, there, demand)
            if demand.left:
                left[revision] = demand.left
        return Scaled(chosen=chosen, left=left)

    async def _present(self, seen: Observed, revision: str) -> Demand:
        """Return the demand, of workers that leave only those whose pods are there."""
        demand = self.watch.demand(seen.live.uid, revision)
        if not demand.leaving:
            return demand
        there = await self.cluster.standing_pods(seen.live.key.namespace, demand.leaving)
        gone = frozenset(demand.leaving) - there
        if gone:
            await self._forget(seen, revision, gone)
        return demand.without(gone)

    async def _approach(
        self, seen: Observed, revision: str, course: Course, there: Standing | None, demand: Demand
    ) -> Chosen:
        if there is None:
            return _chosen(course, course.replicas)
        insists = course.reason is Reason.FIXED_NUMBER
        step = approach(course.replicas, standing=there, demand=demand, insists=insists)
        try:
            if (step.ask, step.drain) != (demand.asked, demand.drains):
                await self.watch.registry.ask_to_leave(seen.live.uid, revision, step.ask, drain=step.drain)
        except Unavailable:
            self.watch.doubt(seen.live.uid)
            step = replace(step, replicas=max(step.replicas, there.replicas), remove=())
        for pod in step.remove:
            await self.cluster.remove_pod(seen.live.key.namespace, pod)
        return _chosen(course, step.replicas)

    async def forget(self, seen: Observed, scaled: Scaled) -> None:
        """Forget workers that left, now that the Deployment no longer asks for them."""
        for revision, pods in scaled.left.items():
            await self._forget(seen, revision, pods)

    async def _forget(self, seen: Observed, revision: str, pods: Collection[str]) -> None:
        with suppress(Unavailable):  # the next pass finds their pods gone
            await self.watch.registry.forget_leavers(seen.live.uid, revision, pods)


def _chosen(course: Course, replicas: int) -> Chosen:
    return Chosen(replicas=replicas, desired=course.replicas, reason=course.reason, late=course.late)
