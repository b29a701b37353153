"""How many workers a revision should have, and how to get there without stopping one that holds a run.

`decide` says the number: out at once, in only after fewer would have done for a while. `approach` says the
next step towards it: a number is lowered only by workers that have left, and by those that never came up.
"""

from dataclasses import dataclass, replace
from typing import Final

from everesthood.apis.reasons import Reason

OLD_WORK_SECONDS: Final = 10.0
"""Work that has waited longer adds a worker although there should be slots: then it is the workers' speed."""
LATE_SECONDS: Final = 60.0
"""Workers that are to start for work and are not up by then are in trouble."""

IDLE_FIRST_SECONDS: Final = 35.0
"""How long workers that hold nothing have the first chance to leave: each asks for work within that time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Within which bounds the workers of a revision follow its work."""

    minimum: int
    maximum: int
    slots: int
    """Runs that one worker executes at once."""
    idle_seconds: float = 0.0
    """How long workers must have been more than needed before they go."""
    fixed: bool = False
    """Somebody says how many, whatever there is to do: both bounds are that number."""

    @property
    def most_due(self) -> int:
        """Return how many due runs are worth counting: more would not change any decision."""
        return 0 if self.fixed else self.maximum * self.slots + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the record says of the work of a revision, and of its workers that are to leave."""

    due: int = 0
    oldest_seconds: float = 0.0
    """Age of the oldest due run."""
    running: int = 0
    waiting: int = 0
    """Runs that wait for a person: they need no worker now, but one of this revision later."""
    leaving: tuple[str, ...] = ()
    """Pods that claim nothing any more."""
    left: tuple[str, ...] = ()
    """Those of them that hold nothing either."""
    asked: int = 0
    """How many workers are asked to leave, those that are leaving included."""
    drains: bool = False
    """Whether workers that hold runs are asked too."""

    def without(self, gone: frozenset[str]) -> "Demand":
        """Return the demand without pods that are no longer there."""
        return replace(
            self,
            leaving=tuple(p for p in self.leaving if p not in gone),
            left=tuple(p for p in self.left if p not in gone),
        )


NO_DEMAND: Final = Demand()


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What was decided, and what the next decision has to remember."""

    replicas: int
    reason: Reason
    low_since: float | None = None
    """Since when fewer workers would have done, or none have had anything to do."""
    peak: int = 0
    """The most workers that were needed since then."""
    grown_at: float = float("-inf")
    late: bool = False
    """Not one worker is up although they have had the time."""
    quiet: bool = False
    """Nothing is to be decided before new work comes: whoever accepts it must say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the Deployment of a revision is like."""

    replicas: int = 0
    available: int = 0
    settled: bool = True
    """It is not in the middle of replacing its pods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """How many workers a revision has now and is to have in the end, and why."""

    replicas: int
    desired: int
    reason: Reason
    late: bool = False
    """Not one is up although they have had the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do now."""

    replicas: int
    """What the Deployment is to say."""
    remove: tuple[str, ...] = ()
    """Pods to delete before it says so, so that no other pod is chosen."""
    ask: int = 0
    """How many workers to ask to leave, those that are leaving included."""
    drain: bool = False
    """Ask workers that hold runs too: others remain to do the work."""


def decide(policy: Policy, demand: Demand, course: Course, *, available: int, now: float) -> Course:
    """Return how many workers there should be."""
    course = _numbered(policy, demand, course, available=available, now=now)
    is_late = course.replicas > 0 and available == 0 and now - course.grown_at >= LATE_SECONDS
    return replace(course, late=is_late)


def fix(number: int, standing: Standing | None, *, known: bool) -> Course:
    """Return the course to a number that somebody says.

    Nobody is stopped while it is not known who holds runs, and who is to leave on an earlier word.
    """
    there = standing.replicas if standing else number
    return Course(
        replicas=number if known else max(number, there),
        reason=Reason.FIXED_NUMBER,
        quiet=known and there <= number,
    )


def _numbered(policy: Policy, demand: Demand, course: Course, *, available: int, now: float) -> Course:
    needed = -(-(demand.due + demand.running) // policy.slots)
    reason = Reason.SCALED_TO_DEMAND
    if _is_slow(demand, course, available=available, now=now) and needed <= course.replicas:
        needed, reason = course.replicas + 1, Reason.WORK_WAITS
    if needed > policy.maximum:
        needed, reason = policy.maximum, Reason.AT_MAXIMUM
    wanted = max(needed, policy.minimum)
    if wanted > course.replicas or course.replicas > policy.maximum:
        return _grown(course, wanted, reason if needed >= wanted else Reason.AT_MINIMUM, now)
    if wanted == course.replicas and not _is_idle(demand):
        kept = reason if reason is Reason.AT_MAXIMUM else course.reason
        return replace(course, reason=kept, low_since=None, quiet=False)
    return _lowered(policy, demand, course, wanted, now)


def _is_slow(demand: Demand, course: Course, *, available: int, now: float) -> bool:
    """Return whether work waits although all workers are up and have had their time."""
    had_time = now - course.grown_at >= OLD_WORK_SECONDS
    waits = demand.due > 0 and demand.oldest_seconds >= OLD_WORK_SECONDS
    return waits and had_time and available >= course.replicas


def _is_idle(demand: Demand) -> bool:
    return not (demand.due or demand.running)


def _grown(course: Course, wanted: int, reason: Reason, now: float) -> Course:
    """Return a course with another number at once; above the maximum there is no waiting either."""
    grown_at = now if wanted > course.replicas else course.grown_at
    return Course(replicas=wanted, reason=reason, grown_at=grown_at)


def _lowered(policy: Policy, demand: Demand, course: Course, wanted: int, now: float) -> Course:
    """Return a course that goes to the most that was needed, once that was less for long enough."""
    # At a minimum that is lowered now the time begins anew: so far all of them were needed.
    begins = course.low_since is None or wanted < course.replicas <= course.peak
    since = now if begins or course.low_since is None else course.low_since
    peak = wanted if begins else max(course.peak, wanted)
    rested = now - since >= policy.idle_seconds
    if peak < course.replicas and rested:
        reason = Reason.SCALED_TO_DEMAND if peak > policy.minimum else lowest(policy)
        return replace(course, replicas=peak, reason=reason, low_since=now, peak=wanted, quiet=False)
    at_bottom = course.replicas == policy.minimum and _is_idle(demand)
    quiet = at_bottom and (rested or policy.minimum == 0)
    reason = lowest(policy) if quiet else course.reason
    return replace(course, reason=reason, low_since=since, peak=peak, quiet=quiet)


def lowest(policy: Policy) -> Reason:
    """Return why there are no more workers than the minimum."""
    return Reason.AT_MINIMUM if policy.minimum else Reason.SCALED_TO_ZERO


def approach(decided: int, *, standing: Standing, demand: Demand, insists: bool = False) -> Step:
    """Return the step from what is there to what was decided.

    `insists` is for a number that a person says. It does not wait until all pods are up or replaced, which
    may never be: those that are not up go first. Workers that hold runs are asked also where none remains.
    """
    current, leaving = standing.replicas, len(demand.leaving)
    if demand.left:
        # First of all: they do nothing any more, whatever else is decided.
        lower = max(0, current - len(demand.left))
        return Step(
            replicas=lower,
            remove=demand.left if lower else (),
            ask=demand.asked,
            drain=demand.drains,
        )
    active = current - leaving
    if decided >= active:
        return Step(replicas=decided + leaving, ask=leaving)
    if standing.available < current:
        return _without_stragglers(decided, standing, demand, insists=insists)
    if not standing.settled and not insists:
        return Step(replicas=current, ask=demand.asked, drain=demand.drains)
    return Step(replicas=current, ask=current - decided, drain=decided > 0 or insists)


def _without_stragglers(decided: int, standing: Standing, demand: Demand, *, insists: bool) -> Step:
    """Take away pods that are not up, which Kubernetes picks first; not while one of them may hold a run.

    Somebody insists: then one that is not up and holds a run hands it back.
    """
    if demand.running and not insists:
        return Step(replicas=standing.replicas, ask=demand.asked, drain=demand.drains)
    return Step(replicas=max(decided + len(demand.leaving), standing.available), ask=len(demand.leaving))
