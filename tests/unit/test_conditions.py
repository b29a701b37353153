"""Conditions: their order, their times, and what is worth an Event."""

from datetime import UTC, datetime, timedelta

import pytest

from everesthood.apis.reasons import ConditionType as On
from everesthood.apis.reasons import Reason
from everesthood.domain import conditions
from everesthood.domain.errors import Problem

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
GOOD = conditions.true(On.ACCEPTED, Reason.ACCEPTED)
WAITS = conditions.false(On.QUEUE_READY, Reason.QUEUE_PENDING, "Not made yet.")


def stored(*verdicts, before=(), now=NOON, generation=1):
    return conditions.merge(before, verdicts, generation=generation, now=now)


def test_the_first_that_is_not_true_explains_ready():
    """Ready carries status, reason and message of the first verdict that is not True."""
    unsure = conditions.unknown(On.CREDENTIALS_READY, Reason.CREDENTIAL_PENDING, "Not read yet.")
    seen = conditions.ready([GOOD, unsure, WAITS])

    assert (seen.status, seen.reason, seen.message) == ("Unknown", Reason.CREDENTIAL_PENDING, "Not read yet.")
    assert conditions.ready([GOOD], "Fine.").message == "Fine."


def test_conditions_stand_in_the_order_in_which_they_are_judged():
    """Whatever order they are found in, people read them in the order of the catalogue."""
    assert [c.type for c in stored(conditions.ready([GOOD]), WAITS, GOOD)] == [
        "Accepted",
        "QueueReady",
        "Ready",
    ]


def test_the_time_moves_only_with_the_status():
    """A new message or generation keeps lastTransitionTime; a new status moves it."""
    before = stored(WAITS)
    reworded = conditions.false(On.QUEUE_READY, Reason.RECONCILING, "Other words.")
    kept = stored(reworded, before=before, now=LATER, generation=2)
    moved = stored(conditions.true(On.QUEUE_READY, Reason.QUEUE_READY), before=before, now=LATER)

    assert kept[0].last_transition_time == before[0].last_transition_time
    assert (kept[0].message, kept[0].observed_generation) == ("Other words.", 2)
    assert moved[0].last_transition_time == conditions.stamp(LATER)


def test_equal_verdicts_give_equal_conditions():
    """Judging the same again later stores the same: nothing is written at rest."""
    before = stored(GOOD, WAITS)

    assert stored(GOOD, WAITS, before=before, now=LATER) == before


def test_a_long_message_is_cut_to_what_the_schema_allows():
    """A Deployment's novel does not make the status unwritable."""
    assert len(stored(conditions.false(On.ACCEPTED, Reason.INVALID_SPEC, "x" * 5000))[0].message) == 1024


@pytest.mark.parametrize(
    ("problems", "reason", "message"),
    [
        ([Problem("spec.a", "is odd")], Reason.TEMPLATE_INVALID, "spec.a: is odd"),
        ([Problem("", "is odd")], Reason.TEMPLATE_INVALID, "is odd"),
        ([Problem("spec.a", "is odd", Reason.CONFLICT)], Reason.CONFLICT, "spec.a: is odd"),
        (
            [Problem("a", "b"), Problem("c", "d"), Problem("e", "f")],
            Reason.TEMPLATE_INVALID,
            "a: b (and 2 more)",
        ),
    ],
)
def test_problems_become_one_sentence(problems, reason, message):
    """The first problem is quoted with its path, the others are counted, its own reason wins."""
    seen = conditions.broken(On.ACCEPTED, problems, Reason.TEMPLATE_INVALID)

    assert (seen.status, seen.reason, seen.message) == ("False", reason, message)


@pytest.mark.parametrize(
    ("verdict", "news"),
    [
        (conditions.ready([GOOD], "Fine."), ("Normal", Reason.READY)),
        (conditions.ready([WAITS]), None),
        (GOOD, None),
        (WAITS, None),
        (conditions.false(On.ACCEPTED, Reason.INVALID_SPEC, "No."), ("Warning", Reason.INVALID_SPEC)),
        (conditions.false(On.WORKERS_AVAILABLE, Reason.WORKERS_UNAVAILABLE, "0 of 1"), None),
        (conditions.true(On.RECONCILING, Reason.RECONCILING), None),
        (conditions.true(On.SUSPENDED, Reason.SUSPENDED), None),
        (conditions.true(On.STALLED, Reason.ROLLOUT_FAILED, "No pods."), ("Warning", Reason.ROLLOUT_FAILED)),
        (conditions.true(On.STALLED, Reason.INVALID_SPEC), None),
    ],
)
def test_events_tell_what_a_person_wants_to_know(verdict, news):
    """Becoming ready, breaking and stalling are told once; being on the way is not."""
    after = stored(verdict)
    told = conditions.notices((), after)

    assert [(n.type, n.reason) for n in told] == ([news] if news else [])
    assert conditions.notices(after, after) == ()


def test_ages_are_read_from_what_is_stored():
    """How long a condition lasts survives a restart, because it is computed from its own time."""
    found = stored(GOOD)

    assert conditions.age_seconds(conditions.find(found, On.ACCEPTED), LATER) == 3600
    assert conditions.age_seconds(conditions.find(found, On.READY), LATER) == 0
