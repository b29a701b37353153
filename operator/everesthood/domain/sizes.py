"""How many workers the revisions of an instance may have, and which of them are to be more or fewer."""

import math
from dataclasses import replace

from everesthood.domain import limits
from everesthood.domain.instances import Observed, Plan
from everesthood.domain.observed import Live
from everesthood.domain.rollouts import standing_of
from everesthood.domain.scaling import Policy, Standing


def policies(seen: Observed, plan: Plan, grace_seconds: float) -> dict[str, Policy]:
    """Return the bounds of each revision's workers.

    Where they follow the work, a new revision proves itself with as many as the present one has, with one at
    least. An old revision has as many as its runs need, always: none while they wait for a person.
    """
    bounds = seen.spec.workers.autoscaling
    serving, coming = plan.serving, plan.target
    live = seen.deployment(serving or "")
    found: dict[str, Policy] = {}
    for revision in dict.fromkeys(filter(None, (serving, coming, *(d.revision for d in seen.deployments())))):
        content = seen.contents.get(revision)
        if content is None:
            continue  # a deleted template takes its revisions along; its workers stay as they are
        slots = content.worker.slots
        if revision not in (serving, coming):
            most = seen.spec.workers.most
            found[revision] = Policy(minimum=0, maximum=most, slots=slots, idle_seconds=grace_seconds)
        elif bounds is None:
            number = seen.spec.workers.replicas
            found[revision] = Policy(minimum=number, maximum=number, slots=slots, fixed=True)
        else:
            low = bounds.min_replicas
            high = max(1, low, _useful(seen, slots, bounds.max_replicas))
            if revision != serving:
                low = min(high, max(1, low, standing_of(live).replicas if live else 1))
            found[revision] = Policy(minimum=low, maximum=high, slots=slots, idle_seconds=bounds.idle_seconds)
    return found


def _useful(seen: Observed, slots: int, most: int) -> int:
    """Return how many of at most so many workers the limits of runs at once can keep busy.

    A template's are those of its newest content, also for an instance that is on an older one.
    """
    newest = seen.contents.get(seen.template.status.revision or "") if seen.template else None
    said = (seen.spec.limits, newest.limits if newest else None)
    runs = min((n for one in said if (n := limits.read(one).concurrency) is not None), default=None)
    return most if runs is None else min(most, math.ceil(runs / slots))


def standings(seen: Observed, plan: Plan) -> dict[str, Standing]:
    """Return what is there of each revision's workers.

    A Deployment that was last asked for as planned counts as planned: what differs is an edit by hand, which
    is undone at once and is not taken for workers to be asked to leave.
    """
    planned = {child.key: child.hash for child in plan.children}
    found = {}
    for live in seen.deployments():
        there = standing_of(live)
        edited = planned.get(live.key) == live.hash and seen.spec.workers.autoscaling is None
        found[live.revision] = replace(there, replicas=seen.replicas(live.revision)) if edited else there
    return found


def resized(seen: Observed, plan: Plan) -> tuple[tuple[Live, int], ...]:
    """Return workers of old revisions of which there are to be more or fewer, and how many."""
    if not plan.publishes:
        return ()
    old = (d for d in seen.deployments() if d.revision not in (plan.target, plan.serving))
    chosen = ((d, seen.chosen[d.revision].replicas) for d in old if d.revision in seen.chosen)
    return tuple((d, replicas) for d, replicas in chosen if standing_of(d).replicas != replicas)
