"""Limits as decisions: rates, concurrency, held keys, turns and fair shares."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everesthood.apis.v1alpha1 import limits as v1alpha1
from everesthood.domain import limits
from everesthood.domain.limits import (
    CONCURRENCY_SECONDS,
    PLATFORM,
    Candidate,
    Crowd,
    Gate,
    Limits,
    Rate,
    allot,
    denial,
    fair_shares,
    rate_next,
    rate_room,
    rate_wait,
    room,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RATES = st.builds(
    Rate, runs=st.integers(1, 1000), period_seconds=st.integers(1, 86_400), burst=st.integers(1, 50)
)
ORGANIZATIONS = st.sampled_from("abcdefg")
CROWDS = st.dictionaries(ORGANIZATIONS, st.integers(0, 200), min_size=1)
WEIGHTS = st.dictionaries(ORGANIZATIONS, st.integers(1, 9))


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def candidates(*queues: tuple[str, int], scopes: tuple[str, ...] = (PLATFORM,)) -> list[Candidate]:
    """Return so many candidates of each queue, given as (namespace, number)."""
    return [
        Candidate(run=f"{queue}-{n}", queue=queue, namespace=namespace, scopes=scopes)
        for queue, (namespace, number) in enumerate(queues, 1)
        for n in range(number)
    ]


def cap(concurrency: int, running: int = 0) -> dict[str, Gate]:
    limit = Limits(concurrency=concurrency)
    return {PLATFORM: Gate(scope=PLATFORM, limits=limit, running=running)}


# --- rates ------------------------------------------------------------------------------------


def test_after_a_quiet_time_a_burst_starts_then_one_each_interval():
    """Two a minute with a burst of three: three now, one after 30 s, one after 60 s."""
    rate = Rate(runs=2, period_seconds=60, burst=3)
    assert rate_room(rate, None, NOW) == 3

    after = rate_next(rate, None, NOW, 3)

    rooms = [rate_room(rate, after, later(seconds)) for seconds in (0, 29.9, 30, 60, 90, 9000)]
    assert rooms == [0, 0, 1, 2, 3, 3]
    assert [rate_wait(rate, after, later(seconds)) for seconds in (0, 20, 30, 45)] == [30, 10, 0, 0]


def test_without_a_burst_starts_are_spread_evenly():
    """Sixty in a minute are one a second, not sixty at once."""
    assert rate_room(Rate(runs=60, period_seconds=60), None, NOW) == 1


@given(rate=RATES, asks=st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 20)), max_size=50))
def test_a_rate_is_never_oversold(rate, asks):
    """In no stretch of time do more runs start than the burst and one for each interval that fits into it."""
    starts, next_at, now = [], None, NOW
    for pause, wanted in asks:
        now += timedelta(microseconds=pause)
        allowed = min(wanted, rate_room(rate, next_at, now))
        next_at = rate_next(rate, next_at, now, allowed)
        starts += [now] * allowed

    # A stretch from i to j holds j - i + 1 starts, at most the burst and (t_j - t_i) * runs / period: so of all
    # starts before j the one that leaves j least is enough to look at. All in whole numbers, which are exact.
    per = rate.period_seconds * 1_000_000
    least = 0
    for number, start in enumerate(starts):
        owed = number * per - (start - NOW) // timedelta(microseconds=1) * rate.runs
        least = owed if number == 0 else min(least, owed)
        assert owed - least + per <= rate.burst * per


@given(rate=RATES, taken=st.integers(0, 50))
def test_whoever_waits_as_long_as_told_may_start(rate, taken):
    """The wait is exact: enough, and not a moment more than is needed."""
    next_at = rate_next(rate, None, NOW, min(taken, rate.burst))
    wait = timedelta(seconds=rate_wait(rate, next_at, NOW))

    assert rate_room(rate, next_at, NOW + wait + timedelta(microseconds=1)) >= 1
    if wait > timedelta(microseconds=1):
        assert rate_room(rate, next_at, NOW + wait - timedelta(microseconds=2)) == 0


# --- one limit --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "left", "seconds", "said"),
    [
        (Gate(scope="instance/u"), None, None, None),
        (Gate(scope="instance/u", limits=Limits(concurrency=2), running=1), 1, None, None),
        (
            Gate(scope="instance/u", limits=Limits(concurrency=1), running=1),
            0,
            CONCURRENCY_SECONDS,
            "the instance's limit of 1 run at once is reached",
        ),
        (
            Gate(scope="template/u", limits=Limits(concurrency=2), running=5),
            0,
            CONCURRENCY_SECONDS,
            "the template's limit of 2 runs at once is reached",
        ),
        (
            Gate(
                scope="organization/acme",
                limits=Limits(rate=Rate(runs=6, period_seconds=60)),
                next_at=later(7),
            ),
            0,
            7,
            "the organisation's limit of 6 starts in 60 s is reached",
        ),
        (
            Gate(scope="credential/acme/openai", limits=Limits(concurrency=9), held_until=later(90)),
            0,
            90,
            "credential openai is held until 2026-01-01T00:01:30Z, as its provider asked",
        ),
        (Gate(scope="credential/acme/openai", held_until=NOW), None, None, None),
        (
            Gate(scope="credential/acme/openai", limits=Limits(concurrency=1), running=1),
            0,
            CONCURRENCY_SECONDS,
            "credential openai's limit of 1 run at once is reached",
        ),
    ],
)
def test_what_a_limit_says(gate, left, seconds, said):
    """How many more may start and, where none may, for how long not and why."""
    found = denial(gate, NOW)

    assert room(gate, NOW) == left
    assert (
        (None, None) == (seconds, said)
        if found is None
        else (found.seconds, found.sentence) == (seconds, said)
    )


def test_of_several_limits_the_one_that_lasts_longest_is_told():
    """Nobody comes back for a limit that is over while another still holds."""
    gates = [
        Gate(scope="instance/u", limits=Limits(concurrency=1), running=1),
        Gate(scope="credential/acme/openai", held_until=later(60)),
    ]

    found = limits.longest(gates, NOW)

    assert found is not None
    assert (found.level, found.seconds) == ("credential", 60)


def test_limits_of_manifests_are_read():
    """What a manifest leaves out is no limit."""
    rate = v1alpha1.Rate(runs=5, period_seconds=10, burst=2)

    assert limits.read(None) == Limits()
    assert limits.read(v1alpha1.Limits(concurrency=3)) == Limits(concurrency=3)
    assert limits.read(v1alpha1.Limits(rate=rate)) == Limits(rate=Rate(runs=5, period_seconds=10, burst=2))


# --- many queues ------------------------------------------------------------------------------


def test_a_limit_lets_in_as_many_as_it_has_room_for():
    """Each queue's own limit counts for it alone; who is left out is told by which level."""
    gates = {
        "instance/a": Gate(scope="instance/a", limits=Limits(concurrency=3), running=1),
        "instance/b": Gate(scope="instance/b", limits=Limits(rate=Rate(runs=1, period_seconds=60))),
    }
    waiting = [
        Candidate(run=f"{name}{n}", queue=queue, namespace="acme", scopes=(f"instance/{name}",))
        for queue, name in enumerate("abc", 1)
        for n in range(4)
    ]

    allotment = allot(waiting, gates, NOW)

    assert Counter(one.queue for one in allotment.started) == {1: 2, 2: 1, 3: 4}
    assert {queue: (one.level, one.seconds) for queue, one in allotment.denials.items()} == {
        1: ("instance", CONCURRENCY_SECONDS),
        2: ("instance", 60),
    }
    assert allotment.starts == {"instance/a": 2, "instance/b": 1, "instance/c": 4}


def test_within_a_queue_the_order_stays():
    """Whom a limit lets in are the first of their queue."""
    gates = cap(3)

    allotment = allot(candidates(("acme", 5)), gates, NOW)

    assert [one.run for one in allotment.started] == ["1-0", "1-1", "1-2"]


def test_organisations_take_turns_whatever_their_number_of_queues():
    """Ten queues of one organisation get as much of a shared limit as the one queue of another."""
    flood = [("acme", 20)] * 10

    allotment = allot(candidates(*flood, ("globex", 20)), cap(10), NOW)

    assert Counter(one.namespace for one in allotment.started) == {"acme": 5, "globex": 5}
    assert allotment.kept_back == {"acme": 195, "globex": 15}


def test_a_place_that_comes_free_waits_for_who_has_less():
    """An organisation with nine of ten places does not get the tenth while another waits with none."""
    crowd = Crowd(running={"acme": 9}, waiting={"globex": 3})

    mine = allot(candidates(("acme", 5)), cap(10, running=9), NOW, crowd)
    theirs = allot(candidates(("globex", 3)), cap(10, running=9), NOW, crowd)

    assert (len(mine.started), mine.denials[1].level) == (0, PLATFORM)
    assert (len(theirs.started), theirs.kept_back) == (1, {"globex": 2})


def test_what_an_organisation_cannot_use_goes_to_the_others():
    """A limit of its own keeps an organisation from its share of the platform's, not the platform from work."""
    gates = cap(10) | {"organization/acme": Gate(scope="organization/acme", limits=Limits(concurrency=2))}
    waiting = candidates(("acme", 20), scopes=(PLATFORM, "organization/acme"))
    waiting += [
        Candidate(run=f"other-{n}", queue=2, namespace="globex", scopes=(PLATFORM,)) for n in range(20)
    ]

    allotment = allot(waiting, gates, NOW)

    assert Counter(one.namespace for one in allotment.started) == {"acme": 2, "globex": 8}
    assert allotment.denials[1].level == "organization"


@given(running=CROWDS, wanted=CROWDS, weights=WEIGHTS, waiting=CROWDS, places=st.integers(1, 300))
def test_a_cap_is_never_overstepped(running, wanted, weights, waiting, places):
    """However organisations are spread, no more start than there are places, and none that did not ask."""
    held = sum(running.values())
    crowd = Crowd(running=running, waiting=waiting, weights=weights)

    allotment = allot(candidates(*sorted(wanted.items())), cap(places, running=held), NOW, crowd)

    started = Counter(one.namespace for one in allotment.started)
    assert sum(started.values()) <= max(0, places - held)
    assert all(number <= wanted[name] for name, number in started.items())


# --- fair shares ------------------------------------------------------------------------------


@given(capacity=st.integers(0, 500), demands=CROWDS, weights=WEIGHTS)
def test_shares_are_weighted_max_min(capacity, demands, weights):
    """All is shared out, nobody gets more than it wants, and who lacks anything has no less for its weight."""
    shares = fair_shares(capacity, demands, weights)

    assert sum(shares.values()) == min(capacity, sum(demands.values()))
    for name, share in shares.items():
        assert 0 <= share <= demands[name]
        if share < demands[name]:
            mine = Fraction(share + 1, weights.get(name, 1))
            assert all(Fraction(other, weights.get(who, 1)) <= mine for who, other in shares.items())


def test_a_weight_counts_only_where_there_is_not_enough():
    """Three times the weight is three times the share; what one does not need the others get."""
    assert fair_shares(40, {"a": 100, "b": 100}, {"a": 3}) == {"a": 30, "b": 10}
    assert fair_shares(40, {"a": 5, "b": 100}, {"a": 3}) == {"a": 5, "b": 35}
    assert fair_shares(40, {"a": 5, "b": 10}, {"a": 3}) == {"a": 5, "b": 10}
