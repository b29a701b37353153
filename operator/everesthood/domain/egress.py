"""Where steps call, and which credential slots go along."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from everesthood.apis.reasons import Reason
from everesthood.apis.v1alpha1.steps import Header
from everesthood.apis.v1alpha1.template import AgentTemplateSpec, CredentialSlot
from everesthood.domain import hosts
from everesthood.domain.errors import Problem
from everesthood.domain.places import http_calls, places

_OURS: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer",
     "idempotency-key", "expect"}
)  # fmt: skip
_SECRET: Final = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An address that a step calls."""

    path: str
    url: str
    credential_path: str
    credential: str | None


def calls(spec: AgentTemplateSpec) -> Iterator[Call]:
    """Yield the calls of all steps that this version can run."""
    for place in places(spec):
        step = place.step
        for path, http in http_calls(place):
            yield _call(path, "url", http.url, http.credential)
        if step.llm:
            yield _call(f"{place.path}.llm", "endpoint", step.llm.endpoint, step.llm.credential)
        if step.mcp:
            yield _call(f"{place.path}.mcp", "url", step.mcp.url, step.mcp.credential)
        if step.agent:
            yield _call(f"{place.path}.agent", "endpoint", step.agent.endpoint, step.agent.credential)
        for index, server in enumerate(step.agent.mcp_servers if step.agent else ()):
            yield _call(f"{place.path}.agent.mcpServers[{index}]", "url", server.url, server.credential)


def _call(path: str, field: str, url: str, credential: str | None) -> Call:
    return Call(path=f"{path}.{field}", url=url, credential_path=f"{path}.credential", credential=credential)


def call_problems(spec: AgentTemplateSpec, internal_hosts: frozenset[str]) -> Iterator[Problem]:
    """Yield calls to hosts that are not listed, and credentials that are not declared."""
    slots = {slot.name: slot for slot in spec.credentials}
    for call in calls(spec):
        slot = slots.get(call.credential or "")
        if call.credential is not None and slot is None:
            yield Problem(call.credential_path, _no_slot(call.credential, slots))
        yield from _url_problems(call, slot, spec.egress.hosts, internal_hosts)


def _no_slot(name: str, slots: dict[str, CredentialSlot]) -> str:
    known = f"; there are {', '.join(sorted(slots))}" if slots else ""
    return f"spec.credentials has no slot {name}{known}"


def _url_problems(
    call: Call, slot: CredentialSlot | None, listed: list[str], internal_hosts: frozenset[str]
) -> Iterator[Problem]:
    try:
        endpoint = hosts.literal_endpoint(call.url)
    except hosts.BadUrl as error:
        yield Problem(call.path, str(error), Reason.HOST_REFUSED)
        return
    if endpoint is None:
        return
    why = hosts.internal(endpoint.host)
    if why and endpoint.address not in internal_hosts:
        message = f"{endpoint.host} {why}, which agents may not call"
        yield Problem(call.path, message, Reason.ADDRESS_REFUSED)
    elif not hosts.allows(listed, endpoint):
        yield Problem(call.path, f"add {endpoint.shown} to spec.egress.hosts", Reason.HOST_REFUSED)
    elif slot and not hosts.allows(slot.hosts, endpoint):
        message = (
            f"credential slot {slot.name} may not be sent to {endpoint.shown}; add it to the slot's hosts"
        )
        yield Problem(call.path, message, Reason.HOST_REFUSED)


def list_problems(path: str, listed: list[str], internal_hosts: frozenset[str]) -> Iterator[Problem]:
    """Yield entries of a list of hosts that lead inside, where the platform does not allow it."""
    for index, entry in enumerate(listed):
        why = hosts.internal(hosts.host_part(entry))
        if why and entry not in internal_hosts:
            message = f"{entry} {why}, which agents may not call"
            yield Problem(f"{path}[{index}]", message, Reason.ADDRESS_REFUSED)


def is_ours(header: str) -> bool:
    """Return whether a header is written by the client itself."""
    return header.lower() in _OURS


def header_problem(name: str) -> str | None:
    """Return why a step may not write a header."""
    if name.lower() in _SECRET:
        return f"header {name} carries a secret; name a credential slot instead"
    if is_ours(name):
        return f"header {name} is set by Everesthood"
    return None


def header_problems(spec: AgentTemplateSpec) -> Iterator[Problem]:
    """Yield headers that steps may not write, and line breaks in the values."""
    for place in places(spec):
        for path, http in http_calls(place):
            yield from _of_headers(path, http.headers)


def _of_headers(path: str, headers: list[Header]) -> Iterator[Problem]:
    for position, header in enumerate(headers):
        problem = header_problem(header.name)
        if problem:
            yield Problem(f"{path}.headers[{position}].name", problem)
        if "\n" in header.value or "\r" in header.value:
            yield Problem(f"{path}.headers[{position}].value", "must be one line")
