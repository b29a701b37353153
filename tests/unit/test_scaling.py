"""How many workers there should be, and the steps that never stop one that holds a run."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everesthood.apis.reasons import Reason
from everesthood.domain.scaling import (
    IDLE_FIRST_SECONDS,
    LATE_SECONDS,
    NO_DEMAND,
    OLD_WORK_SECONDS,
    Course,
    Demand,
    Policy,
    Standing,
    approach,
    decide,
    fix,
)
from everesthood.usecases.claiming import SLOW_POLL_SECONDS

POLICY = Policy(minimum=0, maximum=5, slots=10, idle_seconds=60)
AT_ZERO = Course(replicas=0, reason=Reason.SCALED_TO_ZERO)


def at(replicas: int, **changes) -> Course:
    return Course(replicas=replicas, reason=Reason.SCALED_TO_DEMAND, **changes)


def choose(course: Course, demand: Demand, now: float = 0.0, policy: Policy = POLICY, available: int = 99):
    return decide(policy, demand, course, available=available, now=now)


def over(course: Course, demand: Demand, seconds: range, **options) -> Course:
    for now in seconds:
        course = choose(course, demand, float(now), **options)
    return course


@pytest.mark.parametrize(
    ("due", "running", "replicas", "reason"),
    [
        (1, 0, 1, Reason.SCALED_TO_DEMAND),
        (10, 0, 1, Reason.SCALED_TO_DEMAND),
        (11, 0, 2, Reason.SCALED_TO_DEMAND),
        (5, 16, 3, Reason.SCALED_TO_DEMAND),
        (50, 0, 5, Reason.SCALED_TO_DEMAND),
        (51, 0, 5, Reason.AT_MAXIMUM),
    ],
)
def test_work_adds_workers_at_once(due, running, replicas, reason):
    """Due and running runs over slots say how many, up to the maximum, and the reason says which it was."""
    after = choose(AT_ZERO, Demand(due=due, running=running))

    assert (after.replicas, after.reason) == (replicas, reason)


def test_work_that_waits_although_there_are_slots_adds_a_worker():
    """Slow workers get help, one at a time, once all are up and had their time."""
    waiting = Demand(due=1, running=3, oldest_seconds=OLD_WORK_SECONDS)

    first = choose(at(1), waiting, 100.0)
    assert (first.replicas, first.reason) == (2, Reason.WORK_WAITS)
    assert choose(first, waiting, 101.0).replicas == 2
    assert choose(first, waiting, 100.0 + OLD_WORK_SECONDS).replicas == 3
    assert choose(at(1), waiting, 100.0, available=0).replicas == 1
    assert choose(at(1), replace(waiting, oldest_seconds=9.9), 100.0).replicas == 1
    assert choose(at(5), waiting, 100.0).replicas == 5


def test_workers_go_only_after_fewer_would_have_done_for_a_while():
    """A dip shorter than idleSeconds changes nothing; afterwards as many stay as the busiest moment needed."""
    dipped = over(at(4), Demand(running=5), range(59))
    assert dipped.replicas == 4
    assert choose(dipped, Demand(running=40), 59.0).low_since is None

    peaked = choose(dipped, Demand(running=25), 59.0)
    after = choose(peaked, Demand(running=5), 60.0)
    assert (after.replicas, after.reason) == (3, Reason.SCALED_TO_DEMAND)
    assert over(after, Demand(running=5), range(61, 120)).replicas == 3
    assert over(after, Demand(running=5), range(61, 121)).replicas == 1


def test_the_last_worker_goes_when_idle_and_all_is_quiet():
    """At zero nothing is looked at any more; the next work is told."""
    idle = over(at(1), NO_DEMAND, range(61))

    assert (idle.replicas, idle.reason) == (0, Reason.SCALED_TO_ZERO)
    assert choose(idle, NO_DEMAND, 61.0).quiet
    assert not choose(idle, Demand(waiting=3, due=1), 61.0).quiet


def test_runs_that_wait_for_a_person_need_no_worker():
    """An approval may take days; no worker stands by for it."""
    assert over(at(1), Demand(waiting=7), range(61)).replicas == 0


def test_the_minimum_stays_and_is_quiet_once_idle():
    """With a minimum there is somebody who hears the bell; the controller looks away after a while."""
    policy = replace(POLICY, minimum=2)
    raised = choose(AT_ZERO, NO_DEMAND, 0.0, policy)
    early = over(raised, NO_DEMAND, range(1, 60), policy=policy)
    late = over(early, NO_DEMAND, range(60, 200), policy=policy)

    assert (raised.replicas, raised.reason) == (2, Reason.AT_MINIMUM)
    assert (early.quiet, late.quiet, late.replicas) == (False, True, 2)


def test_a_revision_that_took_long_to_prove_itself_goes_to_zero_all_the_same():
    """Idle at a minimum for longer than idleSeconds, then without it: the time counts from then."""
    proving = over(at(1), NO_DEMAND, range(100), policy=replace(POLICY, minimum=1))

    assert proving.quiet
    assert over(proving, NO_DEMAND, range(100, 160)).replicas == 1
    assert over(proving, NO_DEMAND, range(100, 161)).replicas == 0


def test_workers_that_do_not_come_up_are_late():
    """A worker that should start for work and does not is said after a minute, not before."""
    started = choose(AT_ZERO, Demand(due=1), 0.0, available=0)

    assert not started.late
    assert not choose(started, Demand(due=1), LATE_SECONDS - 1, available=0).late
    assert choose(started, Demand(due=1), LATE_SECONDS, available=0).late
    assert not choose(started, Demand(due=1), LATE_SECONDS, available=1).late


def test_every_idle_worker_has_asked_before_busy_ones_are_taken():
    """The time in which idle workers are preferred is longer than they sleep."""
    assert IDLE_FIRST_SECONDS > SLOW_POLL_SECONDS


demands = st.builds(
    Demand,
    due=st.integers(0, 200),
    running=st.integers(0, 200),
    waiting=st.integers(0, 3),
    oldest_seconds=st.floats(0, 100),
)
policies = st.builds(
    lambda low, more, slots, idle: Policy(
        minimum=low, maximum=max(1, low + more), slots=slots, idle_seconds=idle
    ),
    st.integers(0, 5), st.integers(0, 10), st.integers(1, 50), st.integers(5, 100),
)  # fmt: skip


@given(policies, st.lists(st.tuples(demands, st.floats(0.1, 50)), max_size=40))
def test_decisions_keep_their_bounds(policy, story):
    """Whatever the work does: within bounds, enough for the work, at zero only without work."""
    course, now, low_since = at(policy.minimum), 0.0, None
    for demand, pause in story:
        now += pause
        before, course = course, choose(course, demand, now, policy)
        needed = -(-(demand.due + demand.running) // policy.slots)

        assert policy.minimum <= course.replicas <= policy.maximum
        assert course.replicas >= min(policy.maximum, needed)
        assert not (course.quiet and (demand.due or demand.running))
        if course.replicas < before.replicas:
            assert low_since is not None
            assert now - low_since >= policy.idle_seconds
        if needed >= course.replicas:
            low_since = None
        elif low_since is None:
            low_since = now


@given(policies, demands)
def test_counting_more_due_runs_changes_no_number(policy, demand):
    """The record need not count a flood to its end."""
    demand = replace(demand, oldest_seconds=0.0)
    counted = replace(demand, due=min(demand.due, policy.most_due))

    assert choose(AT_ZERO, demand, policy=policy) == choose(AT_ZERO, counted, policy=policy)


def test_more_workers_come_at_once():
    """Growing needs nobody's consent, and takes back the wish that somebody leave."""
    standing, asked = Standing(replicas=2, available=2), Demand(asked=1)

    assert approach(4, standing=standing, demand=asked).replicas == 4
    assert approach(4, standing=standing, demand=asked).ask == 0


def test_fewer_workers_begin_with_a_question():
    """The number stays until somebody has left; those with runs are asked too if others remain."""
    step = approach(1, standing=Standing(replicas=3, available=3), demand=Demand(running=2))
    last = approach(0, standing=Standing(replicas=3, available=3), demand=NO_DEMAND)

    assert (step.replicas, step.ask, step.drain, step.remove) == (3, 2, True, ())
    assert (last.replicas, last.ask, last.drain) == (3, 3, False)


def test_who_has_left_is_removed_by_name():
    """Their pods are deleted first, so that Kubernetes chooses none; if nobody else is there, it may."""
    some = approach(
        1, standing=Standing(replicas=3, available=3), demand=Demand(leaving=("a", "b"), left=("b",), asked=2)
    )
    everybody = approach(
        0, standing=Standing(replicas=1, available=1), demand=Demand(leaving=("a",), left=("a",), asked=1)
    )

    assert (some.replicas, some.remove) == (2, ("b",))
    assert (everybody.replicas, everybody.remove) == (0, ())


def test_who_leaves_counts_for_nothing():
    """New work that comes while a worker drains gets a new worker."""
    step = approach(
        2, standing=Standing(replicas=2, available=2), demand=Demand(leaving=("a",), asked=1, running=30)
    )

    assert (step.replicas, step.ask) == (3, 1)


def test_pods_that_never_came_up_go_first_but_not_under_a_run():
    """A pod that cannot start is no worker to be asked; while something runs it is left alone."""
    idle = approach(0, standing=Standing(replicas=3, available=1), demand=NO_DEMAND)
    busy = approach(1, standing=Standing(replicas=3, available=1), demand=Demand(running=1))

    assert (idle.replicas, idle.ask) == (1, 0)
    assert (busy.replicas, busy.ask) == (3, 0)


def test_nobody_is_asked_while_pods_are_being_replaced():
    """During a rollout of the Deployment itself nobody knows who will stay."""
    step = approach(1, standing=Standing(replicas=2, available=2, settled=False), demand=NO_DEMAND)

    assert (step.replicas, step.ask) == (2, 0)


names = st.lists(st.sampled_from("abcdef"), unique=True, max_size=6).map(tuple)


@given(
    st.integers(0, 8),
    st.builds(Standing, replicas=st.integers(0, 8), available=st.integers(0, 8), settled=st.booleans()),
    names,
    st.integers(0, 6),
    st.integers(0, 9),
)
def test_a_number_is_lowered_only_by_those_that_hold_nothing(decided, standing, leaving, left, running):
    """However things stand, what is taken away has left, or is not up while nothing runs."""
    leaving = leaving[: standing.replicas]
    demand = Demand(leaving=leaving, left=leaving[:left], running=running, asked=len(leaving))
    step = approach(decided, standing=standing, demand=demand)
    taken = standing.replicas - step.replicas

    if taken > 0 and demand.left:
        assert taken == len(demand.left)
        assert step.remove == (demand.left if step.replicas else ())
    elif taken > 0:
        assert running == 0
        assert step.replicas >= standing.available
    assert step.ask <= max(standing.replicas, len(leaving))


@pytest.mark.parametrize(
    ("there", "known", "replicas", "quiet"),
    [
        (None, False, 2, False),
        (1, False, 2, False),
        (1, True, 2, True),
        (5, False, 5, False),
        (5, True, 2, False),
    ],
)
def test_a_number_that_somebody_says_is_lowered_only_by_who_knows(there, known, replicas, quiet):
    """More workers come at once; fewer are a matter of what the record says of those that are there."""
    course = fix(2, None if there is None else Standing(replicas=there), known=known)

    assert (course.replicas, course.reason, course.quiet) == (replicas, Reason.FIXED_NUMBER, quiet)


@pytest.mark.parametrize(("insists", "drain"), [(False, False), (True, True)])
def test_the_last_busy_workers_are_asked_only_where_somebody_insists(insists, drain):
    """By their work they stay until they are idle; where a person says none, each finishes its runs and goes."""
    standing = Standing(replicas=2, available=2)
    step = approach(0, standing=standing, demand=Demand(running=2), insists=insists)

    assert (step.replicas, step.ask, step.drain) == (2, 2, drain)


def test_a_number_that_somebody_says_counts_no_work():
    """What is due does not matter to it, so it is not counted."""
    assert Policy(minimum=3, maximum=3, slots=10, fixed=True).most_due == 0


@pytest.mark.parametrize(
    ("standing", "running", "replicas", "ask"),
    [
        (Standing(replicas=10, available=6), 6, 6, 0),
        (Standing(replicas=6, available=6, settled=False), 6, 6, 3),
        (Standing(replicas=6, available=2), 2, 3, 0),
    ],
)
def test_what_never_comes_up_does_not_stand_in_a_persons_way(standing, running, replicas, ask):
    """Pods that are not up go at once, and workers are asked although an update of the pods cannot finish."""
    step = approach(3, standing=standing, demand=Demand(running=running), insists=True)

    assert (step.replicas, step.ask) == (replicas, ask)
