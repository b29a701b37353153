"""One AgentInstance in detail: what Kubernetes says of the object, and the API of its queue and its runs."""

from typing import Any, Final
from urllib.parse import quote

from everesthood.apis.reasons import Reason
from everesthood.entrypoints.cli import show
from everesthood.entrypoints.cli.api import Api
from everesthood.entrypoints.cli.exits import Code, Stopped

_RUNS: Final = 5
_MOST_NAMES: Final = 10


def look(api: Api, name: str) -> dict[str, Any]:
    """Return what is known; a part that cannot be read says why, and gives the exit code.

    Raises:
        Stopped: there is no such instance.
    """
    found: dict[str, Any] = {"namespace": api.namespace, "instance": name, "exitCode": int(Code.OK)}
    troubles: dict[str, str] = {}
    try:
        found["object"] = api.manifest(name)
    except Stopped as stopped:
        found["object"], troubles["object"] = None, stopped.message
    try:
        found["queue"] = api.call("GET", f"instances/{quote(name, safe='')}/queue")
        found["runs"] = api.call("GET", "runs", query={"instance": name, "limit": _RUNS})["items"]
    except Stopped as stopped:
        is_gone = stopped.reason == Reason.INSTANCE_NOT_FOUND
        if found["object"] is None and (is_gone or "object" not in troubles):
            raise _nobody(api, name) if is_gone else stopped from None
        found["exitCode"] = int(stopped.code)
        troubles["queue"] = "it is not published yet" if is_gone else stopped.message
    return {**found, "troubles": troubles}


def _nobody(api: Api, name: str) -> Stopped:
    """Return that there is no such instance, with those that there are."""
    try:
        names = [one["instance"] for one in api.call("GET", "queues")["items"]]
    except Stopped:
        names = []
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    hint = (
        f"There are: {', '.join(names[:_MOST_NAMES])}{more}." if names else "There is none; apply a manifest."
    )
    what = f"There is no AgentInstance {name!r} in namespace {api.namespace!r}."
    return Stopped(what, Code.REFUSED, hint)


def text(found: dict[str, Any]) -> str:
    """Return what is known for people."""
    status = (found["object"] or {}).get("status") or {}
    facts = [("Instance", f"{found['namespace']}/{found['instance']}")]
    facts += _object(found["object"], status) if found["object"] else []
    if why := found["troubles"].get("object"):
        facts.append(("Conditions", show.one_line(why)))
    if why := found["troubles"].get("queue"):
        facts.append(("Queue", show.one_line(why)))
    lines = [f"{name + ':':<10} {value}" for name, value in facts]
    if queue := found.get("queue"):
        lines += show.queue(queue).splitlines()[1:]
    if conditions := status.get("conditions"):
        rows = [
            (one["type"], one["status"], one.get("reason", "-"), show.one_line(one.get("message", "")))
            for one in conditions
        ]
        lines += ["", show.table(rows, ("CONDITION", "STATUS", "REASON", "MESSAGE"))]
    if "runs" in found:
        lines += ["", show.runs({"items": found["runs"]}) if found["runs"] else "It has no runs yet."]
    return "\n".join(lines)


def _object(manifest: dict[str, Any], status: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what the controller says of an instance, beside its conditions."""
    revision, workers = status.get("revision") or {}, status.get("workers") or {}
    ready = next((one for one in status.get("conditions") or () if one["type"] == "Ready"), None)
    if ready is None:
        said = "no: the controller has not looked at it yet"
    elif ready["status"] == "True":
        said = "yes"
    else:
        said = f"no: {ready.get('reason', '')}: {show.one_line(ready.get('message', ''))}"
    current, desired = revision.get("current"), revision.get("desired")
    goes_to = f", goes to {desired}" if desired and desired != current else ""
    why = f" ({workers['reason']})" if workers.get("reason") else ""
    counts = f"{workers.get('available', 0)} of {workers.get('desired', 0)} available{why}"
    return [
        ("Template", str(manifest["spec"]["templateRef"]["name"])),
        ("Ready", said),
        ("Revision", f"{current or '-'}{goes_to}"),
        ("Workers", counts),
    ]
