"""What the command line says, without a server."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everesthood.apis.reasons import Reason
from everesthood.entrypoints.cli import api, catalogue, show
from everesthood.entrypoints.cli.exits import Code, Stopped

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
RUN = {
    "id": "019aaaaa-aaaa-7aaa-8aaa-aaaaaaaaaaaa",
    "namespace": "acme",
    "instance": "summarizer",
    "state": "succeeded",
    "reason": "Succeeded",
    "message": "",
    "revision": "0123456789abcdef",
    "attempt": 1,
    "cancelRequested": False,
    "requestedBy": "ada",
    "requestId": "r-1",
    "createdAt": "2026-11-25T11:59:00Z",
    "startedAt": "2026-11-25T11:59:01Z",
    "finishedAt": "2026-11-25T11:59:03.5Z",
    "input": {"text": "hello"},
    "output": {"summary": "hé"},
    "steps": [
        {"name": "ask", "state": "succeeded", "tries": 2, "reason": "", "message": "", "output": 1,
         "attempt": 1, "startedAt": None, "finishedAt": None},
    ],
}  # fmt: skip


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_explained(reason):
    """Whatever a person reads in a condition, an event or a refusal, `explain` has a sentence for it."""
    text = catalogue.explain(reason)

    name, sentence = text.split("\n  ")
    assert name == reason.value
    assert len(sentence) > 15
    assert sentence.endswith(".")


def test_the_catalogue_is_the_enum():
    """No reason is forgotten, none is invented."""
    assert list(catalogue.sentences()) == [reason.value for reason in Reason]


def test_a_misspelled_reason_brings_the_near_ones():
    """Case does not matter, and a typo is answered with what was meant."""
    assert catalogue.explain("secretnotfound") == catalogue.explain("SecretNotFound")
    with pytest.raises(Stopped) as caught:
        catalogue.explain("SecretNotFond")
    assert (caught.value.code, caught.value.hint.split()[3]) == (Code.REFUSED, "SecretNotFound")


def test_schedules_are_a_table():
    """When each fires next, and when it last did."""
    daily = {"name": "daily", "cron": "0 6 * * *", "timeZone": "Europe/Berlin", "at": None, "overlap": "Skip",
             "suspended": False, "nextFireAt": "2026-11-26T05:00:00Z", "lastFireAt": None}  # fmt: skip
    once = daily | {"name": "once", "at": "2026-11-25T05:00:00Z", "nextFireAt": None,
                    "lastFireAt": "2026-11-25T05:00:00Z"}  # fmt: skip
    still = daily | {"name": "still", "suspended": True}

    assert show.schedules({"items": [daily, once, still]}, now=NOW).splitlines() == [
        "NAME    WHEN                        OVERLAP   NEXT                               LAST",
        "daily   0 6 * * * (Europe/Berlin)   Skip      2026-11-26T05:00:00Z (in 17h00m)   -",
        "once    2026-11-25T05:00:00Z        Skip      -                                  2026-11-25T05:00:00Z",
        "still   0 6 * * * (Europe/Berlin)   Skip      suspended                          -",
    ]
    scheduled = RUN | {"schedule": "daily", "fireAt": None}
    assert "Schedule:  daily, by hand" in show.run(scheduled)


def test_runs_are_a_table_as_kubectl_writes_it():
    """Columns, no frame, so that it can be cut and piped."""
    dead = RUN | {"state": "dead", "reason": "StepFailed", "startedAt": None}

    assert show.runs({"items": [RUN, dead]}, now=NOW).splitlines() == [
        "ID                                     INSTANCE     STATE       REASON       AGE   TOOK",
        "019aaaaa-aaaa-7aaa-8aaa-aaaaaaaaaaaa   summarizer   succeeded   Succeeded    60s   2.5s",
        "019aaaaa-aaaa-7aaa-8aaa-aaaaaaaaaaaa   summarizer   dead        StepFailed   60s   -",
    ]


def test_an_accepted_run_comes_with_the_next_commands():
    """What happened, its id, and what to type next, by the name that the program was called by."""
    text = show.started(RUN | {"state": "queued"}, "kubectl everesthood")

    assert text.splitlines() == [
        f"Run {RUN['id']} of acme/summarizer is queued.",
        f"Follow it:  kubectl everesthood logs {RUN['id']} -n acme -f",
        f"See it:     kubectl everesthood runs get {RUN['id']} -n acme",
    ]


def test_the_end_of_a_run_is_its_result_or_its_reason():
    """Success shows the output; a failure says why and how to learn more."""
    assert show.ended(RUN, "everesthood").splitlines()[1:] == ["{", '  "summary": "hé"', "}"]
    dead = RUN | {"state": "dead", "reason": "StepFailed", "message": "step ask failed"}
    said = show.ended(dead, "everesthood")
    assert "dead (StepFailed: step ask failed) after 2.5s" in said
    assert said.endswith("everesthood explain StepFailed")
    doubt = show.ended(RUN | {"state": "ambiguous", "reason": "OutcomeUnknown"}, "everesthood")
    assert f"everesthood resolve {RUN['id']} -n acme [--done OUTPUT|--repeat|--give-up]" in doubt


def test_what_holds_a_queue_is_named():
    """Three different stops at once are three words; without any, it hands out."""
    free = {
        "namespace": "acme", "instance": "orders", "suspended": False, "paused": None, "stopped": None,
        "running": 1, "due": 2, "later": 3, "waiting": 4, "oldestDueAt": "2026-11-25T11:59:00Z",
    }  # fmt: skip
    held = free | {
        "suspended": True,
        "paused": {"at": "T1", "by": "ada\n"},
        "stopped": {"at": "T2", "by": "bob", "message": "a \x1b[2Jleak", "runs": "cancel"},
    }

    assert "Hands out: yes" in show.queue(free)
    assert "Due:       2, since 2026-11-25T11:59:00Z" in show.queue(free)
    assert (
        "no: stopped by bob since T2 (a \N{REPLACEMENT CHARACTER}[2Jleak), paused by ada since T1, suspended by its spec"
        in show.queue(held)
    )
    assert show.queues({"items": [free]}).splitlines()[1].split() == ["orders", "yes", "1", "2", "3", "4"]


def test_a_run_is_shown_with_its_steps():
    """State, steps, input and output stand on one page."""
    text = show.run(RUN)

    for part in ("acme/summarizer", "ada, request r-1", "STEP", "ask", '"text": "hello"', '"summary": "hé"'):
        assert part in text


def test_a_run_that_waits_for_a_limit_says_for_which():
    """The sentence of the API stands with the state; without one there is no such line."""
    waits = RUN | {"state": "queued", "waitsFor": "the instance's limit of 2 runs at once is reached"}

    assert "the instance's limit of 2 runs at once is reached" in show.run(waits)
    assert "Waits for" not in show.run(RUN)


@given(st.text())
def test_no_log_can_drive_a_terminal(text):
    """Escape sequences, bells and reversed writing of a run's own text come out as replacement characters."""
    line = {"seq": 1, "at": "2026-11-25T12:00:00Z", "level": "info", "step": "s", "message": text}
    for shown in (show.line(line), show.pretty({"a": text}), show.one_line(text)):
        assert not [c for c in shown if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0]
        assert not set(shown) & set("\u202a\u202e\u2066\u200f")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"), (9.94, "9.9s"), (10, "10s"), (119, "119s"), (120, "2m00s"), (7200, "2h00m"),
        (172_800, "2d"), (-5, "0.0s"),
    ],
)  # fmt: skip
def test_a_length_of_time_is_short(seconds, text):
    """At most two units."""
    assert show.span(timedelta(seconds=seconds)) == text


def test_events_are_read_from_a_stream():
    """Heartbeats come out without a name; fields without a space and unknown ones do no harm."""
    lines = [
        "id: 7",
        "event: line",
        'data: {"seq":7}',
        "",
        ": still here",
        "",
        "event:run",
        "retry: 5",
        "data:{}",
        "",
    ]

    assert list(api.parse_events(iter(lines))) == [
        ("7", api.Event("line", {"seq": 7})),
        ("", api.Event("", {})),
        ("", api.Event("run", {})),
    ]


@pytest.mark.parametrize(("status", "code"), [(403, Code.REFUSED), (503, Code.UNREACHABLE)])
def test_an_error_in_a_stream_stops_it(status, code):
    """A refusal ends the command; an outage may be waited for."""
    problem = {"status": status, "reason": "Forbidden", "detail": "No.", "requestId": "r"}
    lines = ["event: error", f"data: {json.dumps(problem)}", ""]

    with pytest.raises(Stopped) as caught:
        list(api.parse_events(iter(lines)))
    assert (caught.value.message, caught.value.code) == ("No.", code)
