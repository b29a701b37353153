"""References inside a template: between steps, and from expressions and texts to variables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from everesthood.apis.v1alpha1.steps import HttpStep, LlmStep, Step
from everesthood.apis.v1alpha1.template import AgentTemplateSpec
from everesthood.domain.errors import Problem
from everesthood.domain.languages import Languages, References

ROOTS: Final = ("input", "config", "steps", "run")
MAX_LOOPS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """An expression or a template somewhere in a manifest, and the steps that it may look at."""

    path: str
    text: str
    is_expression: bool
    step: str = ""
    visible: frozenset[str] = frozenset()


def needs_problems(steps: Sequence[Step]) -> Iterator[Problem]:
    """Yield needs that name no step or the step itself, and cycles."""
    names = {step.name for step in steps}
    for index, step in enumerate(steps):
        for position, need in enumerate(step.needs):
            path = f"spec.steps[{index}].needs[{position}]"
            if need == step.name:
                yield Problem(path, f"step {need} cannot need itself")
            elif need not in names:
                yield Problem(path, f"there is no step {need}")
    cycle = _cycle({step.name: step.needs for step in steps})
    if cycle:
        yield Problem("spec.steps", f"steps need each other in a circle: {' → '.join(cycle)}")


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


def ancestors(steps: Sequence[Step]) -> dict[str, frozenset[str]]:
    """Return, for each step, the steps that are over when it starts."""
    needs = {step.name: step.needs for step in steps}
    found: dict[str, frozenset[str]] = {}
    for name, direct in needs.items():
        reached: set[str] = set()
        waiting = list(direct)
        while waiting:
            need = waiting.pop()
            if need not in reached and need in needs:
                reached.add(need)
                waiting.extend(needs[need])
        found[name] = frozenset(reached - {name})
    return found


def texts(spec: AgentTemplateSpec) -> Iterator[Text]:
    """Yield every expression and template of the steps that this version can run."""
    visible = ancestors(spec.steps)
    for index, step in enumerate(spec.steps):
        for name, text, is_expression in _of_step(step):
            yield Text(
                path=f"spec.steps[{index}].{name}",
                text=text,
                is_expression=is_expression,
                step=step.name,
                visible=visible[step.name],
            )
    if spec.output:
        every = frozenset(step.name for step in spec.steps)
        yield Text(path="spec.output.value", text=spec.output.value, is_expression=True, visible=every)


def _of_step(step: Step) -> Iterator[tuple[str, str, bool]]:
    if step.when is not None:
        yield "when", step.when, True
    if step.transform:
        yield "transform.value", step.transform.value, True
    if step.code and step.code.args is not None:
        yield "code.args", step.code.args, True
    if step.http:
        yield from _of_http(step.http)
    if step.llm:
        yield from _of_llm(step.llm)


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


def text_problems(text: Text, every: frozenset[str], languages: Languages) -> Iterator[Problem]:
    """Yield what is wrong with one expression or template; `every` has the names of all steps."""
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
    yield from _step_problems(text, found, every)


def _loop_problems(text: Text, found: References) -> Iterator[Problem]:
    if found.loops > MAX_LOOPS:
        message = f"its loops are nested {found.loops} deep; at most {MAX_LOOPS} are allowed"
        yield Problem(text.path, message)


def _root_problems(text: Text, found: References) -> Iterator[Problem]:
    for root in sorted(found.roots - set(ROOTS)):
        yield Problem(text.path, f"there is no variable {root}; there are input, config, steps and run")


def _step_problems(text: Text, found: References, every: frozenset[str]) -> Iterator[Problem]:
    if found.whole_steps:
        yield Problem(text.path, "name the step that you mean: steps.<name>")
    for step in sorted(found.steps - text.visible):
        if step not in every:
            yield Problem(text.path, f"steps.{step}: there is no step {step}")
        elif step == text.step:
            yield Problem(text.path, f"steps.{step}: a step cannot look at its own output")
        else:
            message = f"steps.{step}: add {step} to the needs of {text.step}, or it may not be over"
            yield Problem(text.path, message)
