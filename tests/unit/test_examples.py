"""Examples of inputs: what is suggested to a newcomer must be accepted."""

import json
from pathlib import Path

import pytest

from everesthood.adapters.languages import Languages
from everesthood.adapters.manifests import Document, documents
from everesthood.domain.examples import example

ROOT = Path(__file__).parents[2]
LANGUAGES = Languages()


def good(schema):
    return lambda value: not LANGUAGES.check(schema, value)


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        ({}, {}),
        ({"type": "object", "required": ["text"]}, {"text": {}}),
        (
            {"required": ["a"], "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
            {"a": "text"},
        ),
        ({"type": "string", "minLength": 6}, "textxx"),
        ({"type": "string", "maxLength": 2}, "te"),
        ({"type": "string", "enum": ["red", "blue"]}, "red"),
        ({"type": "string", "format": "date"}, "2026-01-31"),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "number", "exclusiveMinimum": 2}, 3),
        ({"type": ["integer", "null"]}, 1),
        ({"type": "array", "minItems": 2, "items": {"type": "boolean"}}, [True, True]),
        ({"type": "object", "examples": [{"a": 1}]}, {"a": 1}),
        ({"type": "object", "required": ["a"], "properties": {"a": {"default": 7}}}, {"a": 7}),
        ({"type": "string", "pattern": "^[0-9]{9}$"}, None),
        ({"type": "null"}, None),
    ],
)
def test_an_example_is_small_and_good_or_none(schema, found):
    """What cannot be guessed is not guessed wrongly."""
    if "properties" not in schema and schema.get("required"):
        schema = {**schema, "type": "object"}

    assert example(schema, good(schema)) == found


@pytest.mark.parametrize("path", sorted((ROOT / "manifests" / "samples").rglob("*.yaml")), ids=str)
def test_every_sample_has_an_example(path):
    """The command that `everesthood dev` suggests works for each of our own agents."""
    for found in documents(path.read_text(encoding="utf-8")):
        if isinstance(found, Document) and found.value.get("kind") == "AgentTemplate":
            schema = found.value["spec"].get("inputSchema", {})
            assert example(schema, good(schema)) is not None, json.dumps(schema)
