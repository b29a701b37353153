"""How the command line writes for people: plain columns, no control characters of others."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_COLUMNS: Final = ("ID", "INSTANCE", "STATE", "REASON", "AGE", "TOOK")
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
Json = Mapping[str, Any]


def clean(text: str) -> str:
    """Return text that can do nothing to a terminal: runs write their own logs."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str) -> str:
    """Return text that stays within its cell."""
    return " ".join(clean(text).split())


def table(rows: Iterable[Sequence[str]], columns: Sequence[str]) -> str:
    """Return rows as kubectl writes them."""
    lines = [columns, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def runs(page: Json, *, now: datetime | None = None) -> str:
    """Return a page of runs as a table."""
    return table((_row(run, now or datetime.now(UTC)) for run in page["items"]), _COLUMNS)


def _row(run: Json, now: datetime) -> Sequence[str]:
    age = span(now - _time(run["createdAt"]))
    return run["id"], run["instance"], run["state"], run["reason"] or "-", age, took(run)


def schedules(page: Json, *, now: datetime | None = None) -> str:
    """Return the schedules of an instance as a table."""
    rows = (_schedule(found, now or datetime.now(UTC)) for found in page["items"])
    return table(rows, ("NAME", "WHEN", "OVERLAP", "NEXT", "LAST"))


def _schedule(found: Json, now: datetime) -> Sequence[str]:
    when = found["at"] or f"{found['cron']} ({found['timeZone']})"
    if found["suspended"]:
        following = "suspended"
    elif found["nextFireAt"] is None:
        following = "-"
    else:
        following = f"{found['nextFireAt']} (in {span(_time(found['nextFireAt']) - now)})"
    return found["name"], one_line(when), found["overlap"], following, found["lastFireAt"] or "-"


def approvals(runs: Iterable[Json], *, now: datetime | None = None) -> str:
    """Return what waits for a person as a table."""
    rows = (
        (run["id"], run["instance"], asked["step"], _left(asked, now or datetime.now(UTC)),
         one_line(asked["message"]))
        for run in runs
        for asked in run["approvals"]
    )  # fmt: skip
    return table(rows, ("RUN", "INSTANCE", "STEP", "LEFT", "QUESTION"))


def _left(asked: Json, now: datetime) -> str:
    return span(_time(asked["deadlineAt"]) - now)


def queue(found: Json) -> str:
    """Return one queue."""
    facts = [
        ("Queue", f"{found['namespace']}/{found['instance']}"),
        ("Hands out", _holds(found) or "yes"),
        ("Running", str(found["running"])),
        ("Due", f"{found['due']}" + (f", since {found['oldestDueAt']}" if found["oldestDueAt"] else "")),
        ("Later", str(found["later"])),
        ("Waiting", f"{found['waiting']} for a person"),
    ]
    return "\n".join(f"{name + ':':<10} {value}" for name, value in facts)


def queues(page: Json) -> str:
    """Return the queues of a namespace as a table."""
    rows = [
        (
            one["instance"],
            _holds(one) or "yes",
            *(str(one[name]) for name in ("running", "due", "later", "waiting")),
        )
        for one in page["items"]
    ]
    return table(rows, ("INSTANCE", "HANDS OUT", "RUNNING", "DUE", "LATER", "WAITING"))


def _holds(found: Json) -> str:
    """Return what holds a queue; several things may at once."""
    paused = found["paused"]
    holds = [
        stopped(found["stopped"]) if found["stopped"] else "",
        f"paused by {one_line(paused['by'])} since {paused['at']}" if paused else "",
        "suspended by its spec" if found["suspended"] else "",
    ]
    why = ", ".join(filter(None, holds))
    return f"no: {why}" if why else ""


def stopped(found: Json) -> str:
    """Return who stopped an organisation, and why."""
    why = f" ({one_line(found['message'])})" if found["message"] else ""
    return f"stopped by {one_line(found['by'])} since {found['at']}{why}"


def run(found: Json) -> str:
    """Return one run with its steps."""
    facts = [
        ("Run", found["id"]),
        ("Instance", f"{found['namespace']}/{found['instance']}"),
        ("State", state(found)),
        *([("Waits for", one_line(found["waitsFor"]))] if found.get("waitsFor") else []),
        ("Revision", found["revision"] or "-"),
        ("Attempt", _attempts(found)),
        ("Accepted", found["createdAt"]),
        *_wishes(found),
        ("Took", took(found)),
        ("By", f"{one_line(found['requestedBy'])}, request {found['requestId']}"),
    ]
    if found.get("schedule"):
        facts.append(("Schedule", f"{found['schedule']}, {found['fireAt'] or 'by hand'}"))
    lines = [f"{name + ':':<10} {value}" for name, value in facts]
    for asked in found.get("approvals", ()):
        lines += ["", f"steps.{asked['step']} asks, until {asked['deadlineAt']}:", clean(asked["message"])]
    if found.get("steps"):
        rows = (
            (
                step["name"],
                step["state"],
                str(step["tries"]),
                step["reason"] or "-",
                one_line(step["message"]),
            )
            for step in found["steps"]
        )
        lines += ["", table(rows, ("STEP", "STATE", "TRIES", "REASON", "MESSAGE"))]
    return "\n".join([*lines, *_values(found)])


def _wishes(found: Json) -> list[tuple[str, str]]:
    """Return what the request said beside the input, where it said something."""
    labels = ", ".join(f"{name}={value}" for name, value in sorted(found.get("labels", {}).items()))
    facts = [
        ("Replay of", found.get("replayOf")),
        ("Replayed", f"by {found['replayedBy']}" if found.get("replayedBy") else None),
        ("Priority", found.get("priority")),
        ("Expires", found["expiresAt"] if found.get("expiresAt") and not found["startedAt"] else None),
        ("Labels", labels),
    ]
    return [(name, str(value)) for name, value in facts if value]


def _attempts(found: Json) -> str:
    failed = f", {found['failures']} failed" if found.get("failures") else ""
    waits = f", next not before {found['dueAt']}" if failed and found.get("dueAt") else ""
    return f"{found['attempt']}{failed}{waits}"


def _values(found: Json) -> list[str]:
    lines = ["", "Input:", pretty(found["input"])]
    return [*lines, "", "Output:", pretty(found["output"])] if found["state"] == "succeeded" else lines


def state(found: Json) -> str:
    """Return the state and, where there is one, why."""
    why = ": ".join(filter(None, (found["reason"], one_line(found["message"]))))
    marked = " (told to stop)" if found["cancelRequested"] and not found["finishedAt"] else ""
    return f"{found['state']}{marked}" + (f" ({why})" if why and found["reason"] != "Succeeded" else "")


def started(found: Json, prog: str) -> str:
    """Return what is said after a run was accepted."""
    where = f"{found['id']} -n {found['namespace']}"
    return (
        f"Run {found['id']} of {found['namespace']}/{found['instance']} is {found['state']}.\n"
        f"Follow it:  {prog} logs {where} -f\n"
        f"See it:     {prog} runs get {where}"
    )


def replayed(sums: Mapping[str, int], refused: Sequence[Json], *, dry: bool) -> str:
    """Return what became of runs that were to be replayed."""
    if dry:
        return f"{sums['matched']} runs would be replayed."
    lines = [f"{one['run']}: {one['reason']}: {one_line(one['detail'])}" for one in refused]
    said = f"{sums['replayed']} of {sums['matched']} runs are replayed."
    return "\n".join([said, *(["Refused:", *lines] if lines else [])])


def ended(found: Json, prog: str) -> str:
    """Return what is said at the end of a run."""
    head = f"Run {found['id']} {state(found)} after {took(found)}."
    if found["state"] == "succeeded":
        return f"{head}\n{pretty(found['output'])}"
    where = f"{found['id']} -n {found['namespace']}"
    what = f"{head}\nSee it:     {prog} runs get {where}"
    if found["state"] == "ambiguous":
        what += f"\nResolve it: {prog} resolve {where} [--done OUTPUT|--repeat|--give-up]"
    return f"{what}\nWhy:        {prog} explain {found['reason']}" if found["reason"] else what


def line(found: Json) -> str:
    """Return one line of a log."""
    at = _time(found["at"]).astimezone().strftime("%H:%M:%S")
    step = f"[{found['step']}] " if found["step"] else ""
    level = "" if found["level"] == "info" else f"{found['level'].upper()} "
    return f"{at} {level}{clean(step + found['message'])}"


def step(found: Json) -> str:
    """Return one change of a step."""
    at = found["finishedAt"] or found["startedAt"]
    when = _time(at).astimezone().strftime("%H:%M:%S") if at else " " * 8
    why = ": ".join(filter(None, (found["reason"], one_line(found["message"]))))
    return f"{when} step {found['name']} {found['state']}" + (f" ({why})" if why else "")


def took(found: Json) -> str:
    """Return how long a run took from its first start."""
    if not (found["startedAt"] and found["finishedAt"]):
        return "-"
    return span(_time(found["finishedAt"]) - _time(found["startedAt"]))


def span(length: timedelta) -> str:
    """Return a length of time in at most two units."""
    seconds = max(0.0, length.total_seconds())
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 2 * _MINUTE:
        return f"{whole}s"
    if whole < 2 * _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < 2 * _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d"


def pretty(value: object) -> str:
    """Return JSON for people; its escapes keep control characters out."""
    return clean(json.dumps(value, indent=2, ensure_ascii=False))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
