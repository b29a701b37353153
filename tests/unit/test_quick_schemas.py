"""The quick test of a schema: its yes is always JSON Schema's, and what most agents ask for gets a yes."""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everesthood.adapters.languages import Languages

LANGUAGES = Languages()
NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, -2.0]) | st.text("abc", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
TYPES = st.sampled_from(["object", "array", "string", "boolean", "integer", "number", "null"])
FEW = st.integers(0, 3)


def schemas_of(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
            "properties": st.dictionaries(NAMES, inner, max_size=3),
            "required": st.lists(NAMES, max_size=2, unique=True),
            "additionalProperties": inner,
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "const": VALUES,
            "anyOf": st.lists(inner, min_size=1, max_size=3),
            "oneOf": st.lists(inner, min_size=1, max_size=3),
            "not": inner,
            "minLength": FEW,
            "maxLength": FEW,
            "minItems": FEW,
            "maxItems": FEW,
            "minProperties": FEW,
            "maxProperties": FEW,
            "minimum": st.sampled_from([-1, 0, 1.5]),
            "maximum": st.sampled_from([-1, 0, 1.5]),
            "exclusiveMinimum": st.sampled_from([-1, 0, 1.5]),
            "exclusiveMaximum": st.sampled_from([-1, 0, 1.5]),
            "uniqueItems": st.booleans(),
            "pattern": st.sampled_from(["^a", "b$", "[ab]{2}", "^.$"]),
            "title": st.just("t"),
        },
    )


SCHEMAS = st.recursive(st.booleans() | schemas_of(st.booleans()), schemas_of, max_leaves=6).filter(
    lambda schema: isinstance(schema, dict)
)
TICKET = {
    "type": "object",
    "title": "Ticket",
    "required": ["text"],
    "additionalProperties": False,
    "properties": {
        "text": {"type": "string", "minLength": 1, "maxLength": 10},
        "kind": {"enum": ["bug", "wish"]},
        "weight": {"type": "number", "exclusiveMinimum": 0, "maximum": 10},
        "owner": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "tags": {"type": "array", "maxItems": 2, "items": {"type": "string"}},
        "more": {"type": "object", "additionalProperties": {"type": ["integer", "boolean"]}},
    },
}


@given(schema=SCHEMAS, value=VALUES)
@settings(max_examples=400)
def test_its_yes_is_sure(schema: Mapping[str, object], value: object):
    """Whatever the schema and the value, JSON Schema has nothing against what passes."""
    if LANGUAGES.quick_test(schema)(value):
        assert LANGUAGES.check(schema, value) == []


@pytest.mark.parametrize(
    "value",
    [
        {"text": "x"},
        {"text": "x", "kind": "wish", "weight": 0.5, "owner": None, "tags": ["a", "b"], "more": {"n": 1}},
        {"text": "x", "weight": 10, "owner": "ada", "tags": [], "more": {"n": True}},
    ],
)
def test_what_most_agents_ask_for_passes(value):
    """A good input of a common schema needs no second check."""
    assert LANGUAGES.quick_test(TICKET)(value)


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"text": ""},
        {"text": "x" * 11},
        {"text": "x", "other": 1},
        {"text": "x", "kind": "order"},
        {"text": "x", "weight": 0},
        {"text": "x", "weight": 11},
        {"text": "x", "weight": True},
        {"text": "x", "owner": 1},
        {"text": "x", "tags": ["a", "b", "c"]},
        {"text": "x", "tags": [1]},
        {"text": "x", "more": {"n": "1"}},
    ],
)
def test_what_breaks_the_schema_does_not_pass(value):
    """Each keyword is heeded."""
    assert not LANGUAGES.quick_test(TICKET)(value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "strin"},
        {"$ref": "#/nowhere"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"pattern": "("},
        {"pattern": "(a)\\1"},
    ],
)
def test_a_schema_that_cannot_be_used_passes_nothing(schema):
    """A wrong keyword, a reference to elsewhere, a pattern without a bound: no yes, and nothing is fetched."""
    assert not LANGUAGES.quick_test(schema)("aa")


def test_no_pattern_takes_long():
    """A pattern that makes other engines try for hours is answered."""
    test = LANGUAGES.quick_test({"pattern": "^(a+)+$"})

    assert test("a" * 5_000)
    assert not test("a" * 5_000 + "b")
