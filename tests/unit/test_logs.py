"""A line of the log: one JSON object, whatever is in it, and nothing more of a value than its repr()."""

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import structlog

from everesthood.adapters.telemetry import configure_logging


@pytest.fixture
def printed(monkeypatch) -> Iterator[io.StringIO]:
    """Configure logging as a process does, and put everything back."""
    root, said = logging.getLogger(), io.StringIO()
    before, level = root.handlers[:], root.level
    monkeypatch.setattr("sys.stdout", said)
    configure_logging("web")
    yield said
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def lines(printed: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in printed.getvalue().splitlines()]


def test_a_line_says_what_is_bound_and_where_it_comes_from(printed):
    """Context, event, level, logger, time and process are in it."""
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        structlog.get_logger("everesthood.web").info("request", status=201)

    (line,) = lines(printed)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "request_id": "r-1",
        "event": "request",
        "status": 201,
        "level": "info",
        "logger": "everesthood.web",
        "process": "web",
    }


def test_a_library_has_the_same_fields(printed):
    """A record of `logging` is a line like ours."""
    logging.getLogger("library").warning("said %s", "so")
    structlog.get_logger("ours").warning("said so")

    one, other = lines(printed)
    assert one.keys() == other.keys()
    assert (one["event"], one["level"], one["logger"]) == ("said so", "warning", "library")


def test_what_is_below_the_level_is_not_said(printed):
    """No line of debugging where the level is info."""
    structlog.get_logger("ours").debug("detail")

    assert printed.getvalue() == ""


def test_a_defect_has_its_trace(printed):
    """The exception is a field of the one line."""
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        structlog.get_logger("ours").exception("defect")

    (line,) = lines(printed)
    assert "ZeroDivisionError" in str(line["exception"])
    assert line["level"] == "error"


def test_a_value_shows_no_more_than_its_repr(printed):
    """A field that repr() leaves out is in no line."""

    @dataclass
    class Credential:
        name: str
        value: str = field(repr=False)

    structlog.get_logger("ours").info("leased", credential=Credential("mail", "s3cret"), raw=b"bytes")

    assert "s3cret" not in printed.getvalue()
    assert lines(printed)[0]["raw"] == "b'bytes'"


@pytest.mark.parametrize("text", ["é\n\"'\\", "\ud800", "\0"])
def test_any_text_is_one_line(printed, text):
    """Quotes, line ends and what is no Unicode are escaped."""
    structlog.get_logger("ours").info("said", text=text)

    (line,) = lines(printed)
    assert line["text"] == text


def test_a_reader_that_went_away_fails_no_request(printed):
    """A closed output is no error of who logs."""
    printed.close()

    structlog.get_logger("ours").info("said")
