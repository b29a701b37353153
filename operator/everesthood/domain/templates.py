"""Rules of an AgentTemplate by itself: all that its schema and CEL rules cannot say."""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import islice
from typing import Final

from everesthood.apis.reasons import Reason
from everesthood.apis.v1alpha1.steps import LeafStep, Step
from everesthood.apis.v1alpha1.template import AgentTemplateSpec
from everesthood.domain import egress, references
from everesthood.domain.errors import Problem
from everesthood.domain.languages import Languages
from everesthood.domain.places import Place, http_calls, lists, places
from everesthood.domain.steps import offered_name

MAX_REPORTED: Final = 50
_NOT_YET: Final = "not yet supported by this version"
_ENV_NAMES: Final = frozenset(
    {"PATH", "HOME", "HOSTNAME", "TMPDIR", "IFS", "ENV", "BASH_ENV", "GCONV_PATH", "LOCPATH",
     "NODE_OPTIONS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GLIBC_TUNABLES", "HOSTALIASES",
     "RES_OPTIONS", "LOCALDOMAIN"}
)  # fmt: skip
_ENV_PREFIXES: Final = (
    "LD_", "PYTHON", "SSL_", "OPENSSL_", "MALLOC_", "EVERESTHOOD_", "KUBERNETES_", "CELERY_",
)  # fmt: skip
_FACTORS: Final = {
    "": Decimal(1), "m": Decimal("0.001"), "k": Decimal(10**3), "M": Decimal(10**6),
    "G": Decimal(10**9), "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30),
}  # fmt: skip
_SMALLEST_MEMORY: Final = Decimal(64 * 2**20)
_HOTTEST: Final = 2
_LONGEST_TOOL: Final = 64
"""Characters of a tool's name that models take."""


def problems(
    spec: AgentTemplateSpec, languages: Languages, internal_hosts: frozenset[str] = frozenset()
) -> tuple[Problem, ...]:
    """Return the broken rules, at most MAX_REPORTED, so that a hostile template costs little."""
    return tuple(islice(_found(spec, languages, internal_hosts), MAX_REPORTED))


def _found(
    spec: AgentTemplateSpec, languages: Languages, internal_hosts: frozenset[str]
) -> Iterator[Problem]:
    yield from _schema_problems(spec, languages)
    for index, slot in enumerate(spec.credentials):
        path = f"spec.credentials[{index}].hosts"
        yield from egress.list_problems(path, slot.hosts, internal_hosts)
    yield from egress.list_problems("spec.egress.hosts", spec.egress.hosts, internal_hosts)
    for place in places(spec):
        yield from _step_problems(place.path, place.step)
        for path, http in http_calls(place):
            if http.body is not None and http.json_body is not None:
                yield Problem(f"{path}.body", "set body or json, not both")
        yield from _tool_problems(place)
    yield from _loop_problems(spec)
    for path, steps in lists(spec):
        yield from references.needs_problems(path, steps)
    for text in references.texts(spec):
        yield from references.text_problems(text, languages)
    yield from egress.call_problems(spec, internal_hosts)
    yield from egress.header_problems(spec)
    yield from _worker_problems(spec)
    yield from _plan_problems(spec)


def _schema_problems(spec: AgentTemplateSpec, languages: Languages) -> Iterator[Problem]:
    for path, schema in _schemas(spec):
        for pointer, message in languages.schema_problems(schema):
            yield Problem(at_pointer(path, pointer), message)


def _schemas(spec: AgentTemplateSpec) -> Iterator[tuple[str, Mapping[str, object]]]:
    yield "spec.inputSchema", spec.input_schema
    yield "spec.configSchema", spec.config_schema
    for place in places(spec):
        if place.step.llm and place.step.llm.output_schema is not None:
            yield f"{place.path}.llm.outputSchema", place.step.llm.output_schema
        for index, tool in enumerate(place.step.agent.tools if place.step.agent else ()):
            yield f"{place.path}.agent.tools[{index}].parameters", tool.parameters
    if spec.output and spec.output.output_schema is not None:
        yield "spec.output.schema", spec.output.output_schema


def at_pointer(path: str, pointer: str) -> str:
    """Return the field path of a JSON pointer below a path."""
    for part in pointer.split("/")[1:]:
        path += f"[{part}]" if part.isdigit() else f".{part}"
    return path


def _step_problems(path: str, step: LeafStep) -> Iterator[Problem]:
    if step.approval:
        for field in ("idempotent", "retry"):
            if getattr(step, field) is not None:
                yield Problem(f"{path}.{field}", f"an approval asks once: leave {field} out")
    if step.llm and step.llm.temperature and Decimal(step.llm.temperature) > _HOTTEST:
        yield Problem(f"{path}.llm.temperature", f"must be at most {_HOTTEST}")
    if step.retry and step.retry.initial_seconds > step.retry.max_seconds:
        yield Problem(f"{path}.retry.initialSeconds", "must not be more than maxSeconds")


def _tool_problems(place: Place) -> Iterator[Problem]:
    for index, tool in enumerate(place.step.agent.tools if place.step.agent else ()):
        path = f"{place.path}.agent.tools[{index}]"
        if tool.parameters.get("type", "object") != "object":
            yield Problem(f"{path}.parameters.type", "must be object: a tool's arguments have names")
        if tool.http and tool.http.expect:
            yield Problem(f"{path}.http.expect", "leave it out: the model sees every status")
    yield from _server_problems(place)


def _server_problems(place: Place) -> Iterator[Problem]:
    """Yield tools of MCP servers whose names a model could not tell apart, or not write."""
    agent = place.step.agent
    taken = {tool.name for tool in agent.tools} if agent else set()
    for index, server in enumerate(agent.mcp_servers if agent else ()):
        for position, tool in enumerate(server.tools):
            path = f"{place.path}.agent.mcpServers[{index}].tools[{position}]"
            name = offered_name(server.name, tool)
            if len(name) > _LONGEST_TOOL:
                yield Problem(
                    path, f"the model would call it {name}, which is over {_LONGEST_TOOL} characters"
                )
            elif name in taken:
                yield Problem(path, f"the model would call it {name}, as it calls another tool")
            taken.add(name)


def _loop_problems(spec: AgentTemplateSpec) -> Iterator[Problem]:
    outside = {step.name for step in spec.steps}
    for index, step in enumerate(spec.steps):
        if step.for_each:
            yield from _one_loop(f"spec.steps[{index}]", step, outside)


def _one_loop(path: str, step: Step, outside: set[str]) -> Iterator[Problem]:
    for field, is_set in (("idempotent", step.idempotent is not None), ("retry", step.retry is not None)):
        if is_set:
            yield Problem(f"{path}.{field}", f"set {field} on the steps inside forEach")
    for index, inner in enumerate(step.for_each.steps if step.for_each else ()):
        if inner.name in outside:
            message = f"{inner.name} is already the name of a step outside this forEach"
            yield Problem(f"{path}.forEach.steps[{index}].name", message)
        if inner.approval:
            message = "an approval cannot stand inside forEach: put it before or after the loop"
            yield Problem(f"{path}.forEach.steps[{index}].approval", message)


def _worker_problems(spec: AgentTemplateSpec) -> Iterator[Problem]:
    worker = spec.worker
    if worker.image is not None and not re.fullmatch(r"[A-Za-z0-9][\w./:@-]*", worker.image):
        yield Problem("spec.worker.image", "is not the name of an image")
    if amount(worker.resources.cpu) > amount(worker.resources.cpu_limit):
        yield Problem("spec.worker.resources.cpu", "must not be more than cpuLimit")
    if amount(worker.resources.memory) < _SMALLEST_MEMORY:
        yield Problem("spec.worker.resources.memory", "must be at least 64Mi")
    for index, variable in enumerate(worker.env):
        problem = env_problem(variable.name)
        if problem:
            yield Problem(f"spec.worker.env[{index}].name", problem)


def amount(quantity: str) -> Decimal:
    """Return a Kubernetes quantity as a number."""
    number, unit = re.match(r"([0-9.]+)(.*)", quantity).groups()  # type: ignore[union-attr]
    return Decimal(number) * _FACTORS[unit]


def env_problem(name: str) -> str | None:
    """Return why a template may not set an environment variable."""
    if name in _ENV_NAMES or name.startswith(_ENV_PREFIXES) or name.endswith("_PROXY"):
        return f"{name} changes how the worker itself runs and cannot be set"
    return None


def _plan_problems(spec: AgentTemplateSpec) -> Iterator[Problem]:
    for index, plan in enumerate(spec.plans):
        if plan.prices:
            yield Problem(f"spec.plans[{index}].prices", f"prices are {_NOT_YET}", Reason.NOT_YET_SUPPORTED)
