"""CEL, templates and JSON Schema: what authors can say, and what they cannot do to a process."""

import contextlib
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everesthood.adapters.languages import Languages, cel, sandbox, schemas
from everesthood.apis.v1alpha1.template import Resources
from everesthood.domain.errors import ExpressionFailed
from everesthood.domain.workers import quantity

LANGUAGES = Languages()
VARIABLES = {
    "input": {"n": 2, "text": "a,b", "items": [1, 2, 3], "nothing": None},
    "steps": {"first": {"status": 200}, "skipped": None},
    "config": {"limit": 10},
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("input.n + 1", 3),
        ("input.items.map(i, i * input.n)", [2, 4, 6]),
        ("steps.first.status == 200 ? 'yes' : 'no'", "yes"),
        ("steps.skipped == null", True),
        ("steps['first'].status", 200),
        ("has(input.missing)", False),
        ("input.text.split(',')", ["a", "b"]),
        ("'ab'.split('')", ["a", "b"]),
        ("['a', 'b'].join('-')", "a-b"),
        ("' A '.trim().lowerAscii() + 'b'.upperAscii()", "aB"),
        ("'abcd'.substring(1, 3) + 'abcd'.substring(3)", "bcd"),
        ("'abc'.indexOf('c')", 2),
        ("'aba'.replace('a', 'x')", "xbx"),
        ("{'a': [1.5, true, null]}", {"a": [1.5, True, None]}),
        ("string(timestamp('2026-01-01T00:00:00Z'))", "2026-01-01T00:00:00+00:00"),
        ("'x1'.matches('^[a-z][0-9]$')", True),
    ],
)
def test_an_expression_has_its_value(expression, value):
    """CEL computes over input, config and outputs, with the usual string functions."""
    assert LANGUAGES.evaluate(expression, VARIABLES) == value


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("input.missing", "there is no 'missing'"),
        ("1 +", "not valid CEL at line 1, column 4: mismatched input the end"),
        ("unknown", "Undefined variable or function: 'unknown'"),
        ("1 / 0", "division by zero"),
        ("1.0 / 0.0", "the value is inf, which JSON lacks"),
        ("timestamp('2026-01-01T00:00:00Z')", "wrap it in string()"),
        ("{1: 2}", "the key 1 is not a string"),
        ("b'bytes'", "the value is bytes, which JSON lacks"),
        ("'a'.substring(3, 1)", "substring() needs 0 <= start <= end"),
        ("'" + "a" * 1500 + "'.replace('a', '" + "b" * 1500 + "')", "grow over 1048576 characters"),
        ("1" * 5000, "longer than 4096 characters"),
    ],
)
def test_an_expression_without_value_says_why(expression, says):
    """What cannot be computed fails with one line that names the cause."""
    with pytest.raises(ExpressionFailed) as caught:
        LANGUAGES.evaluate(expression, VARIABLES)

    assert says in caught.value.message
    assert "\n" not in caught.value.message


def test_split_is_bounded():
    """A text cannot be made into a list that fills the memory."""
    with pytest.raises(ExpressionFailed, match="more than 10000 parts"):
        LANGUAGES.evaluate("input.text.split('')", {"input": {"text": "x" * 20_000}})


def test_a_dear_expression_ends_in_time(monkeypatch):
    """An expression that explodes is stopped from outside; the process that asked goes on."""
    monkeypatch.setattr(sandbox, "_DEADLINE_SECONDS", 1)
    numbers = {"input": {"l": list(range(3000))}}
    bomb = "input.l.map(a, input.l.map(b, input.l.map(c, a + b + c)))"

    with pytest.raises(ExpressionFailed, match="took longer than 1 seconds"):
        LANGUAGES.evaluate(bomb, numbers)


def test_a_greedy_expression_cannot_fill_the_memory(monkeypatch):
    """An expression that grows without end dies alone."""
    monkeypatch.setattr(sandbox, "_DEADLINE_SECONDS", 60)
    monkeypatch.setattr(cel, "_CHEAP_BYTES", 0)
    text = {"input": {"s": "x" * 250_000}}
    four = "input.s + input.s + input.s + input.s"
    greedy = f"[{', '.join([four] * 40)}].map(a, [{', '.join(['a + a + a'] * 100)}]).size()"

    with pytest.raises(ExpressionFailed, match="too much memory"):
        LANGUAGES.evaluate(greedy, text)


def test_a_greedy_expression_leaves_its_pod_room(monkeypatch):
    """The most that an expression may take fits beside a worker in the default pod, and does for half a MiB of rows."""
    pod = int(quantity(Resources().memory).removesuffix("Mi")) * 1024**2
    rows = {"input": {"rows": [{"a": number} for number in range(50_000)]}}
    monkeypatch.setattr(cel, "_CHEAP_BYTES", 0)

    assert sandbox._MEMORY_BYTES <= pod / 2
    assert LANGUAGES.evaluate("input.rows.exists(row, row.a == 49999)", rows) is True


def test_dear_expressions_take_turns(monkeypatch):
    """However many runs evaluate something dear at once, their pod holds one child at a time."""
    at_once, most = 0, 0

    def run(*_, **__):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.02)
        at_once -= 1
        return subprocess.CompletedProcess([], 0, b"[1, null]", b"")

    monkeypatch.setattr(sandbox.subprocess, "run", run)
    with ThreadPoolExecutor(4) as threads:
        values = list(threads.map(lambda _: sandbox.run_apart("1", b"{}"), range(4)))

    assert (values, most) == ([1, 1, 1, 1], 1)


def test_a_huge_value_is_not_carried_home(monkeypatch):
    """The value of a dear expression is bounded before it comes back."""
    monkeypatch.setattr(cel, "_CHEAP_BYTES", 0)
    huge = f"[{', '.join(['input.s + input.s'] * 10)}]"
    with pytest.raises(ExpressionFailed, match="larger than 4194304 bytes"):
        LANGUAGES.evaluate(huge, {"input": {"s": "x" * 250_000}})


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("input.items.map(i, i + 1).size()", 1000),
        ("input.items[999]", 999),
        ("input.items.exists(i, i == 5)", True),
    ],
)
def test_a_dear_expression_has_the_same_value_apart(expression, value):
    """An expression over much data is computed in a process of its own, with the same result."""
    numbers = {"input": {"items": list(range(1000))}}
    assert LANGUAGES.evaluate(expression, numbers) == value


def test_failures_read_the_same_apart():
    """What fails in the other process fails with the same sentence."""
    numbers = {"input": {"items": list(range(1000))}}
    with pytest.raises(ExpressionFailed, match="there is no 'missing'"):
        LANGUAGES.evaluate("input.items.map(i, input.missing)", numbers)


def test_values_that_are_not_json_are_refused():
    """A variable that JSON lacks, or that is nested without end, is a clear failure."""
    deep: object = 1
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ExpressionFailed, match="a variable is not JSON"):
        LANGUAGES.evaluate("input", {"input": object()})
    with pytest.raises(ExpressionFailed, match="nested more than 64 levels"):
        LANGUAGES.evaluate("input", {"input": deep})
    with pytest.raises(ExpressionFailed, match="nested more than 64 levels"):
        LANGUAGES.render("{{ input }}", {"input": deep})


@pytest.mark.parametrize(
    ("expression", "roots", "steps"),
    [
        ("input.a + config.b", {"input", "config"}, set()),
        ("steps.one.body == steps['two']", {"steps"}, {"one", "two"}),
        ("input.l.map(x, x + steps.a)", {"input", "steps"}, {"a"}),
        ("[1].exists(input, input == 1)", set(), set()),
        ("[1].exists(input, input == 1) || input.x", {"input"}, set()),
        ("'steps.q' == r'steps.\\z'", set(), set()),
        ("// steps.x\nsize(input)", {"input"}, set()),
        ("{'a': run.id}.a in [true, null]", {"run"}, set()),
        ("a.steps.b", {"a"}, set()),
        ("0x1F + 1.5e3 + 2u", set(), set()),
    ],
)
def test_references_of_an_expression_are_found(expression, roots, steps):
    """Rules see which variables and steps an expression uses, and not what only looks like one."""
    assert LANGUAGES.expression_problem(expression) is None
    found = LANGUAGES.expression_references(expression)

    assert (found.roots, found.steps, found.whole_steps) == (roots, steps, False)


@pytest.mark.parametrize("expression", ["steps", "steps[input.x]", "steps.map(k, k)", "size(steps)"])
def test_steps_as_a_whole_are_noticed(expression):
    """A reference to a step that cannot be read off is not overlooked."""
    assert LANGUAGES.expression_references(expression).whole_steps


@pytest.mark.parametrize(
    ("expression", "depth"),
    [("1", 0), ("l.map(a, a)", 1), ("l.map(a, l.filter(b, b > a))", 2), ("l.map(a, a) + l.map(b, b)", 1)],
)
def test_nested_loops_are_counted(expression, depth):
    """The depth of loops is known before anything is computed."""
    assert LANGUAGES.expression_references(expression).loops == depth


def test_a_template_prints_values_as_people_expect():
    """Text is text, everything else is JSON, and nothing is escaped."""
    text = "{{ input.text }} {{ input.items }} {{ steps.first }} {{ input.nothing }} {{ '<b>' }}\n"
    assert LANGUAGES.render(text, VARIABLES) == 'a,b [1, 2, 3] {"status": 200} null <b>\n'


@pytest.mark.parametrize(
    "text",
    [
        "{% for k, v in steps.first.items() %}{{ k }}={{ v }}{% endfor %}",
        "{% for k in steps.first.keys() %}{{ k }}={{ steps.first.get(k) }}{% endfor %}",
        "{% for k, v in steps.first|items %}{{ k }}={{ v }}{% endfor %}",
        "status={{ steps.first.values()|first }}",
        "status={{ steps.first.get('missing', 200) }}",
    ],
)
def test_the_readers_of_a_mapping_work(text):
    """The four methods that read a mapping are there."""
    assert LANGUAGES.render(text, VARIABLES) == "status=200"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ input.missing }}", "line 1: a value that it uses is missing"),
        ("\n{{ nowhere }}", "line 2: there is no variable 'nowhere'"),
        ("{{ input", "line 1: unexpected end of input"),
        ("{{ steps.first.pop('status') }}", "no method pop"),
        ("{{ input.items.append(1) }}", "no method named append"),
        ("{{ input.__class__.__mro__ }}", "is missing"),
        ("{{ steps.first.__reduce__() }}", "insecure method call"),
        ("{% for a in range(9000) %}{% for b in range(9000) %}x{% endfor %}{% endfor %}", "loops too long"),
        ("{{ 10 ** 10 ** 10 }}", "unable to calculate"),
        ("{{ debug() }}", "debug is unknown"),
        ("{% set n = namespace() %}{% set n.a = n %}{{ n }}", "namespace is unknown"),
        ("{{ 'a' * 1000000000 }}", "loops too long"),
    ],
)
def test_a_template_that_cannot_be_rendered_says_why(text, says):
    """A template reaches no method that writes, no attribute, no endless loop."""
    with pytest.raises(ExpressionFailed) as caught:
        LANGUAGES.render(text, VARIABLES)

    assert says in caught.value.message
    assert VARIABLES["steps"]["first"] == {"status": 200}


def test_a_templates_result_is_bounded(monkeypatch):
    """A rendered text over the cap is a failure, not a message of a megabyte."""
    monkeypatch.setattr("everesthood.adapters.languages.templates.MAX_OUTPUT", 10)
    with pytest.raises(ExpressionFailed, match="longer than 10 characters"):
        LANGUAGES.render("{{ input.text }}" * 4, VARIABLES)


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "{{ input.a|upper }} {{ steps.x.y }}",
        "{% if input.a is defined %}{{ input.a }}{% endif %}",
        "{% raw %}{% include 'x' %}{% endraw %}{# {% macro m() %} #}",
        "{{ input.a|sum }} {{ input.b + 1 }} {{ input.c.items() }}",
    ],
)
def test_a_good_template_has_no_problem(text):
    """A trial run without variables finds no fault in a template that only lacks them."""
    assert LANGUAGES.template_problem(text) is None


def test_a_template_over_the_cap_is_a_problem():
    """The length of a template is bounded."""
    assert LANGUAGES.template_problem("x" * 40_000) == "the template is longer than 32768 characters"


@pytest.mark.parametrize(
    ("schema", "value", "found"),
    [
        ({"type": "integer"}, 1, []),
        ({}, {"anything": True}, []),
        ({"type": "integer"}, "x", [("", "'x' is not of type 'integer'")]),
        ({"properties": {"a": {"items": {"maximum": 1}}}}, {"a": [0, 2]},
         [("/a/1", "2 is greater than the maximum of 1")]),
        ({"pattern": "^(a+)+$"}, "a" * 60 + "b", [("", f"'{'a' * 56}…' does not match '^(a+)+$'")]),
        ({"pattern": "^a"}, 5, []),
        ({"uniqueItems": True}, [{"a": 1, "b": 2}, {"b": 2, "a": 1}],
         [("", "has items that are not unique")]),
        ({"uniqueItems": True}, [1, 2], []),
        ({"uniqueItems": False}, [1, 1], []),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "null"}}}, None, []),
    ],
)  # fmt: skip
def test_a_value_is_checked_against_a_schema(schema, value, found):
    """Each place that breaks the schema is named by a JSON pointer."""
    assert LANGUAGES.check(schema, value) == found


@pytest.mark.parametrize(
    ("schema", "value", "says"),
    [
        ({"$ref": "http://127.0.0.1:1/schema"}, 1, "cannot be checked"),
        ({"$ref": "#"}, 1, "is nested too deeply"),
        ({"type": "objekt"}, 1, "cannot be checked"),
        ({"pattern": "(?=a)"}, "a", "cannot be checked"),
        ({"allOf": [{"items": {"type": "integer"}}] * 200}, list(range(2000)), "too many steps"),
    ],
)
def test_a_hostile_schema_cannot_hold_the_process(schema, value, says):
    """A schema that was never validated still costs little and calls nothing."""
    assert says in LANGUAGES.check(schema, value)[0][1]


def test_reports_are_bounded():
    """A value that is wrong everywhere is told twenty times, not a thousand."""
    found = LANGUAGES.check({"items": {"type": "integer"}}, ["x"] * 1000)
    assert len(found) == schemas.MAX_REPORTED


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"patternProperties": {"type": "string"}, "$id": {}}},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "string"}}},
        {"enum": [{"$ref": "http://x"}], "default": {"pattern": "("}},
        {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}], "$defs": {"a": True}},
        {"properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}}},
        {"dependentSchemas": {"a": {"required": ["b"]}}, "items": False},
    ],
)
def test_a_good_schema_has_no_problem(schema):
    """Names of properties and plain values are not mistaken for keywords."""
    assert LANGUAGES.schema_problems(schema) == []


@pytest.mark.parametrize(
    ("schema", "pointer", "says"),
    [
        ({"$id": "http://x"}, "/$id", "$id is not supported"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "/properties/a/$ref", "points to nothing"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}}, "/$defs/a/$ref", "contains itself"),
        ({"items": {"maxLength": "x"}}, "/items/maxLength", "'x' is not of type 'integer'"),
        ({"items": {"pattern": "["}}, "/items/pattern", "not a supported regular expression"),
    ],
)
def test_a_bad_schema_is_explained(schema, pointer, says):
    """The keyword at fault is named."""
    [(where, message)] = LANGUAGES.schema_problems(schema)
    assert where == pointer
    assert says in message


@settings(max_examples=150)
@given(st.text(max_size=60))
def test_no_text_harms_the_process(text):
    """Whatever stands in an expression or a template, the answer is a value or a sentence."""
    for ask in (LANGUAGES.expression_problem, LANGUAGES.template_problem):
        assert ask(text) is None or ask(text)
    for run in (LANGUAGES.evaluate, LANGUAGES.render):
        with contextlib.suppress(ExpressionFailed):
            run(text, VARIABLES)


@settings(max_examples=80)
@given(JSON)
def test_values_come_back_unchanged(value):
    """What goes into an expression comes out of it, in place and apart."""
    assert LANGUAGES.evaluate("input", {"input": value}) == value
    assert LANGUAGES.check({}, value) == []


def test_the_extension_must_be_there(monkeypatch, tmp_path):
    """A missing engine is one sentence, not a traceback of the import system."""
    monkeypatch.setattr(sandbox.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ImportError, match="common-expression-language is not installed"):
        sandbox.extension_path.__wrapped__()
    with pytest.raises(ImportError, match="cannot be loaded"):
        sandbox.load(str(tmp_path / "nothing.txt"))
