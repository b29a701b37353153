"""Where each step of a template stands: its path, what is over when it starts, what it may name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from everesthood.apis.v1alpha1.steps import HttpStep, LeafStep
from everesthood.apis.v1alpha1.template import AgentTemplateSpec

ROOTS: Final = ("input", "config", "steps", "run")
ITEM_ROOTS: Final = (*ROOTS, "item", "index")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One step, at the top or inside a forEach."""

    path: str
    step: LeafStep
    visible: frozenset[str]
    """Steps that are over when it starts."""
    needers: Mapping[str, str]
    """Every step that it could look at, and the one whose `needs` would have to name it."""
    roots: tuple[str, ...] = ROOTS
    """Variables that its expressions and templates have."""


def places(spec: AgentTemplateSpec) -> Iterator[Place]:
    """Yield every step, those inside a forEach after it."""
    visible = ancestors(spec.steps)
    names = [step.name for step in spec.steps]
    for index, step in enumerate(spec.steps):
        outer = Place(
            path=f"spec.steps[{index}]",
            step=step,
            visible=visible[step.name],
            needers=dict.fromkeys(names, step.name),
        )
        yield outer
        if step.for_each:
            yield from _inner(outer, step.for_each.steps)


def _inner(outer: Place, steps: Sequence[LeafStep]) -> Iterator[Place]:
    visible = ancestors(steps)
    for index, step in enumerate(steps):
        yield Place(
            path=f"{outer.path}.forEach.steps[{index}]",
            step=step,
            visible=outer.visible | visible[step.name],
            needers={**outer.needers, **dict.fromkeys(visible, step.name)},
            roots=ITEM_ROOTS,
        )


def http_calls(place: Place) -> Iterator[tuple[str, HttpStep]]:
    """Yield the HTTP calls of a step, its own or those of its tools, each with its path."""
    if place.step.http:
        yield f"{place.path}.http", place.step.http
    for index, tool in enumerate(place.step.agent.tools if place.step.agent else ()):
        if tool.http:
            yield f"{place.path}.agent.tools[{index}].http", tool.http


def lists(spec: AgentTemplateSpec) -> Iterator[tuple[str, Sequence[LeafStep]]]:
    """Yield each list of steps that need one another, with its path."""
    yield "spec.steps", spec.steps
    for index, step in enumerate(spec.steps):
        if step.for_each:
            yield f"spec.steps[{index}].forEach.steps", step.for_each.steps


def ancestors(steps: Sequence[LeafStep]) -> dict[str, frozenset[str]]:
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
