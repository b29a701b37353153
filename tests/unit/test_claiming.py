"""When a worker asks for work."""

import pytest

from everesthood.usecases.claiming import POLL_SECONDS, SETTLE_AFTER_SECONDS, SLOW_POLL_SECONDS, Claiming


def settling(claiming: Claiming) -> None:
    """Bring it to where the next call forgets the bell."""
    claiming.claimed(5, 0, settled=False, now=0.0)
    claiming.claimed(5, 0, settled=False, now=0.5)
    assert claiming.pause(0.5) == 0.0


def test_a_worker_begins_by_looking() -> None:
    """The first claim is made at once."""
    assert Claiming(0.0).pause(0.0) == 0.0


def test_a_full_claim_is_followed_by_another() -> None:
    """Who got all that was asked for asks again at once."""
    claiming = Claiming(0.0)
    claiming.claimed(5, 5, settled=False, now=1.0)

    assert (claiming.mood, claiming.pause(1.0)) == ("hungry", 0.0)


def test_after_a_short_claim_it_polls_then_settles_the_bell_then_waits() -> None:
    """5 ms polls for 20 ms, one claim with the bell forgotten, then the slow poll."""
    claiming = Claiming(0.0)
    claiming.claimed(5, 2, settled=False, now=0.0)
    now, moods = 0.0, []
    for _ in range(6):
        now += claiming.pause(now)
        moods.append(claiming.mood)
        claiming.claimed(5, 0, settled=claiming.settles(now), now=now)

    assert moods == ["polling", "polling", "polling", "polling", "settling", "waiting"]
    assert now < SETTLE_AFTER_SECONDS + POLL_SECONDS + SLOW_POLL_SECONDS
    assert claiming.pause(now) == pytest.approx(SLOW_POLL_SECONDS)


def test_a_run_found_while_polling_begins_the_polling_anew() -> None:
    """As long as a little comes, the worker keeps looking closely."""
    claiming = Claiming(0.0)
    claiming.claimed(5, 1, settled=False, now=1.0)
    claiming.claimed(5, 1, settled=False, now=1.019)
    claiming.claimed(5, 0, settled=False, now=1.03)

    assert claiming.mood == "polling"


def test_a_run_found_as_the_bell_is_forgotten_keeps_it_looking() -> None:
    """The claim that goes with the forgotten bell counts as any other."""
    claiming = Claiming(0.0)
    settling(claiming)
    claiming.claimed(5, 1, settled=True, now=1.0)

    assert claiming.mood == "polling"


def test_a_bell_during_the_last_claim_is_not_missed() -> None:
    """A bell that rings while the settling claim is under way makes the worker look again."""
    claiming = Claiming(0.0)
    settling(claiming)
    claiming.rung()
    claiming.claimed(5, 0, settled=True, now=1.0)

    assert claiming.mood == "polling"


def test_without_a_free_slot_nothing_changes() -> None:
    """A call that claims nothing says nothing about work."""
    claiming = Claiming(0.0)
    claiming.claimed(0, 0, settled=False, now=1.0)

    assert claiming.mood == "hungry"


def test_a_hand_in_that_finds_nothing_does_not_wake_a_waiting_worker() -> None:
    """Claims ride on hand-ins; an empty one leaves the worker waiting."""
    claiming = Claiming(0.0)
    claiming.mood = "waiting"
    claiming.claimed(3, 0, settled=False, now=1.0)

    assert claiming.mood == "waiting"


def waiting(claiming: Claiming, *, next_due_in: float | None) -> None:
    """Bring it to where it waits, told of the next due run at 1.0."""
    settling(claiming)
    claiming.claimed(5, 0, settled=True, now=1.0, next_due_in=next_due_in)
    assert claiming.mood == "waiting"


def test_a_worker_that_waits_comes_back_when_the_next_run_is_due() -> None:
    """The settling call says when the next run is due; the worker claims then, and settles again."""
    claiming = Claiming(0.0)
    waiting(claiming, next_due_in=2.5)

    assert (claiming.pause(1.0), claiming.settles(3.4)) == (2.5, False)
    assert (claiming.pause(3.5), claiming.settles(3.5)) == (0.0, True)


def test_an_alarm_rings_once() -> None:
    """After a run was claimed at the alarm and no other is known, the worker waits for the bell again."""
    claiming = Claiming(0.0)
    waiting(claiming, next_due_in=2.5)
    claiming.claimed(5, 0, settled=True, now=3.5)

    assert claiming.pause(3.5) == SLOW_POLL_SECONDS


def test_an_alarm_at_this_very_moment_is_no_storm() -> None:
    """A run that is due by now but that nobody could claim is looked for at the pace of the polling."""
    claiming = Claiming(0.0)
    waiting(claiming, next_due_in=0.0)

    assert claiming.pause(1.0) == pytest.approx(POLL_SECONDS)


def test_who_was_denied_waits_for_as_long_as_the_limit_says() -> None:
    """A limit that kept runs back makes the worker wait at once, whether it got some or none."""
    for got in (0, 3):
        claiming = Claiming(0.0)
        claiming.claimed(5, got, settled=False, now=1.0, next_due_in=0.75, denied=True)

        assert (claiming.mood, claiming.pause(1.0)) == ("waiting", 0.75)


def test_hand_ins_put_neither_the_alarm_nor_the_slow_poll_off() -> None:
    """A worker that hands in all the time still looks ahead every half minute."""
    claiming = Claiming(0.0)
    waiting(claiming, next_due_in=None)
    for second in range(2, 31):
        claiming.claimed(3, 0, settled=False, now=float(second))

    assert claiming.pause(30.0) == pytest.approx(1.0)


def test_a_run_handed_in_to_be_tried_again_makes_a_waiting_worker_ask_when() -> None:
    """Nobody rings for a run that is due later, so the worker that put it off asks for it."""
    claiming = Claiming(0.0)
    waiting(claiming, next_due_in=None)
    claiming.due_later()

    assert (claiming.pause(1.0), claiming.settles(1.0)) == (0.0, True)
