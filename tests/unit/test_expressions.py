"""Expressions on the worker's loop: short ones at once, possibly long ones in a thread."""

import threading
from collections.abc import Mapping

from everesthood.usecases.expressions import Expressions


class Spoken:
    """Languages that say in which thread they were asked."""

    def evaluate(self, expression: str, variables: Mapping[str, object]) -> object:
        return threading.current_thread() is threading.main_thread()

    def render(self, text: str, variables: Mapping[str, object]) -> str:
        return f"{text} {threading.current_thread() is threading.main_thread()}"

    def check(self, schema: Mapping[str, object], value: object) -> list[tuple[str, str]]:
        return [("", str(threading.current_thread() is threading.main_thread()))]


async def test_what_may_be_long_does_not_hold_up_other_runs() -> None:
    """Whatever calls a function or loops is done beside the loop, and so is a check against a schema."""
    expressions = Expressions(Spoken())

    assert await expressions.evaluate("[1, 2].map(n, n)", {}) is False
    assert (
        await expressions.render("{% for a in b %}{% endfor %}", {}) == "{% for a in b %}{% endfor %} False"
    )
    assert await expressions.problems({}, 1) == [("", "False")]


async def test_what_is_short_costs_no_thread() -> None:
    """Plain expressions and templates are done at once."""
    expressions = Expressions(Spoken())

    assert await expressions.evaluate("input.a + 1", {}) is True
    assert await expressions.render("{{ input.a }}", {}) == "{{ input.a }} True"
    assert await expressions.render("{# a note #}", {}) == "{# a note #} True"


async def test_a_text_without_a_template_is_itself() -> None:
    """Nothing is parsed where nothing is to be filled in."""
    assert await Expressions(Spoken()).render("https://example.com/", {}) == "https://example.com/"
