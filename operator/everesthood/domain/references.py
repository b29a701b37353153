"""References inside a template: between steps, and from expressions and texts to variables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from everesthood.apis.v1alpha1.steps import AgentStep, HttpStep, LeafStep, LlmStep, Step
from everesthood.apis.v1alpha1.template import AgentTemplateSpec
from everesthood.domain.errors import Problem
from everesthood.domain.languages import Languages, References
from everesthood.domain.places import ROOTS, Place, places

TOOL_ROOTS: Final = ("args",)
"""What the texts of an agent's tool see besides: the arguments that the model gives."""
MAX_LOOPS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """An expression or a template somewhere in a manifest, and what it may look at."""

    path: str
    text: str
    is_expression: bool
    visible: frozenset[str]
    needers: Mapping[str, str]
    """Every step that it could look at, and the one whose `needs` would have to name it."""
    step: str = ""
    roots: tuple[str, ...] = ROOTS


def needs_problems(path: str, steps: Sequence[LeafStep]) -> Iterator[Problem]:
    """Yield needs that name no step of the list or the step itself, and cycles."""
    names = {step.name for step in steps}
    for index, step in enumerate(steps):
        for position, need in enumerate(step.needs):
            where = f"{path}[{index}].needs[{position}]"
            if need == step.name:
                yield Problem(where, f"step {need} cannot need itself")
            elif need not in names:
                yield Problem(where, f"there is no step {need}")
    cycle = _cycle({step.name: step.needs for step in steps})
    if cycle:
        yield Problem(path, f"steps need each other in a circle: {' → '.join(cycle)}")


def _cycle(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a circle of more than one step, first step repeated at the end."""
    finished: set[str] = set()
    for start in needs:
        trail: list[str] = []
        found = _walk(start, needs, trail, finished)
        if found:
            return found
    return []


def _walk(name: str, needs: Mapping[str, Sequence[str]], trail: list[str], finished: set[str]) -> list[str]:
    if name in trail:
        return [*trail[trail.index(name) :], name]
    if name in finished or name not in needs:
        return []
    trail.append(name)
    for need in needs[name]:
        found = _walk(need, needs, trail, finished) if need != name else []
        if found:
            return found
    trail.pop()
    finished.add(name)
    return []


def texts(spec: AgentTemplateSpec) -> Iterator[Text]:
    """Yield every expression and template of the steps that this version can run."""
    for place in places(spec):
        for name, text, is_expression in _of_step(place.step):
            yield _text(place, name, text, is_expression=is_expression)
        for index, tool in enumerate(place.step.agent.tools if place.step.agent else ()):
            for name, text, is_expression in _of_http(tool.http) if tool.http else ():
                where = f"agent.tools[{index}].{name}"
                yield _text(place, where, text, is_expression=is_expression, more=TOOL_ROOTS)
    if spec.output:
        every = frozenset(step.name for step in spec.steps)
        yield Text(
            path="spec.output.value", text=spec.output.value, is_expression=True, visible=every, needers={}
        )


def _text(place: Place, name: str, text: str, *, is_expression: bool, more: tuple[str, ...] = ()) -> Text:
    return Text(
        path=f"{place.path}.{name}",
        text=text,
        is_expression=is_expression,
        visible=place.visible,
        needers=place.needers,
        step=place.step.name,
        roots=(*place.roots, *more),
    )


def _of_step(step: LeafStep) -> Iterator[tuple[str, str, bool]]:
    if step.when is not None:
        yield "when", step.when, True
    if step.transform:
        yield "transform.value", step.transform.value, True
    if step.code and step.code.args is not None:
        yield "code.args", step.code.args, True
    if isinstance(step, Step) and step.for_each:
        yield "forEach.items", step.for_each.items, True
    if step.approval:
        yield "approval.message", step.approval.message, False
    yield from _of_calls(step)


def _of_calls(step: LeafStep) -> Iterator[tuple[str, str, bool]]:
    if step.http:
        yield from _of_http(step.http)
    if step.llm:
        yield from _of_llm(step.llm)
    if step.mcp:
        yield "mcp.url", step.mcp.url, False
    if step.mcp and step.mcp.arguments is not None:
        yield "mcp.arguments", step.mcp.arguments, True
    if step.agent:
        yield from _of_agent(step.agent)


def _of_agent(agent: AgentStep) -> Iterator[tuple[str, str, bool]]:
    yield "agent.endpoint", agent.endpoint, False
    yield "agent.model", agent.model, False
    yield "agent.instructions", agent.instructions, False
    yield "agent.prompt", agent.prompt, False
    for index, server in enumerate(agent.mcp_servers):
        yield f"agent.mcpServers[{index}].url", server.url, False


def _of_http(http: HttpStep) -> Iterator[tuple[str, str, bool]]:
    yield "http.url", http.url, False
    for position, header in enumerate(http.headers):
        yield f"http.headers[{position}].value", header.value, False
    if http.json_body is not None:
        yield "http.json", http.json_body, True
    if http.body is not None:
        yield "http.body", http.body, False


def _of_llm(llm: LlmStep) -> Iterator[tuple[str, str, bool]]:
    yield "llm.endpoint", llm.endpoint, False
    yield "llm.model", llm.model, False
    for position, message in enumerate(llm.messages):
        yield f"llm.messages[{position}].content", message.content, False


def text_problems(text: Text, languages: Languages) -> Iterator[Problem]:
    """Yield what is wrong with one expression or template."""
    if text.is_expression:
        problem = languages.expression_problem(text.text)
    else:
        problem = languages.template_problem(text.text)
    if problem:
        yield Problem(text.path, problem)
        return
    if text.is_expression:
        found = languages.expression_references(text.text)
    else:
        found = languages.template_references(text.text)
    yield from _loop_problems(text, found)
    yield from _root_problems(text, found)
    yield from _step_problems(text, found)


def _loop_problems(text: Text, found: References) -> Iterator[Problem]:
    if found.loops > MAX_LOOPS:
        message = f"its loops are nested {found.loops} deep; at most {MAX_LOOPS} are allowed"
        yield Problem(text.path, message)


def _root_problems(text: Text, found: References) -> Iterator[Problem]:
    there = f"{', '.join(text.roots[:-1])} and {text.roots[-1]}"
    for root in sorted(found.roots - set(text.roots)):
        yield Problem(text.path, f"there is no variable {root}; there are {there}")


def _step_problems(text: Text, found: References) -> Iterator[Problem]:
    if found.whole_steps:
        yield Problem(text.path, "name the step that you mean: steps.<name>")
    for step in sorted(found.steps - text.visible):
        needer = text.needers.get(step)
        if needer is None:
            yield Problem(text.path, f"steps.{step}: there is no step {step}")
        elif step == needer:
            yield Problem(text.path, f"steps.{step}: a step cannot look at its own output")
        else:
            message = f"steps.{step}: add {step} to the needs of {needer}, or it may not be over"
            yield Problem(text.path, message)
