"""A worker's lean reading of a template says the same as the full types."""

import json
from typing import Any

import msgspec
import pytest

from everesthood.apis.v1alpha1 import steps as full_steps
from everesthood.apis.v1alpha1.fields import Model
from everesthood.apis.v1alpha1.template import AgentTemplateSpec
from everesthood.domain import steps as lean

FULL: dict[str, Any] = {
    "displayName": "Everything",
    "egress": {"hosts": ["example.com"]},
    "worker": {"slots": 7},
    "output": {"value": "steps.d", "schema": {"type": "string"}},
    "steps": [
        {
            "name": "a",
            "when": "true",
            "timeoutSeconds": 5,
            "idempotent": False,
            "retry": {"maxAttempts": 2, "initialSeconds": 3, "maxSeconds": 4},
            "http": {
                "method": "PUT", "url": "https://example.com", "json": "{'a': 1}", "credential": "key",
                "headers": [{"name": "X-A", "value": "b"}], "maxBytes": 10, "expect": [200, 404],
            },
        },
        {
            "name": "b", "needs": ["a"],
            "llm": {
                "endpoint": "https://example.com/v1", "model": "m", "maxTokens": 5, "temperature": "0.5",
                "messages": [{"role": "user", "content": "c"}], "outputSchema": {"type": "object"},
            },
        },
        {"name": "c", "needs": ["b"], "code": {"entrypoint": "a:b", "args": "1"}},
        {
            "name": "h", "needs": ["c"],
            "mcp": {"url": "https://example.com/mcp", "tool": "search", "arguments": "{}", "credential": "key"},
        },
        {
            "name": "i", "needs": ["c"],
            "agent": {
                "endpoint": "https://example.com/v1", "model": "m", "credential": "key", "instructions": "i",
                "prompt": "p", "maxTurns": 3, "maxTokens": 4,
                "tools": [
                    {
                        "name": "t", "description": "d", "parameters": {"type": "object"},
                        "http": {"url": "https://example.com/{{ args.a }}", "method": "POST"},
                    },
                ],
            },
        },
        {
            "name": "e", "needs": ["c"],
            "forEach": {
                "items": "input.items", "maxParallel": 9,
                "steps": [
                    {"name": "f", "when": "index > 0", "idempotent": True, "http": {"url": "https://example.com"}},
                    {"name": "g", "needs": ["f"], "retry": {"maxAttempts": 7}, "transform": {"value": "item"}},
                ],
            },
        },
        {"name": "d", "needs": ["c"], "transform": {"value": "1"}, "retry": {}},
    ],
}  # fmt: skip
MINIMAL: dict[str, Any] = {
    "displayName": "Little",
    "steps": [
        {"name": "a", "http": {"url": "https://example.com"}},
        {"name": "b", "llm": {"endpoint": "https://example.com", "model": "m", "messages": [{"role": "user", "content": ""}]}},
        {"name": "c", "code": {"entrypoint": "a:b"}},
        {"name": "f", "mcp": {"url": "https://example.com/mcp", "tool": "search"}},
        {
            "name": "g",
            "agent": {
                "endpoint": "https://example.com/v1", "model": "m", "instructions": "", "prompt": "",
                "tools": [{"name": "t", "description": "d", "http": {"url": "https://example.com"}}],
            },
        },
        {"name": "d", "forEach": {"items": "[]", "steps": [{"name": "e", "transform": {"value": "item"}}]}},
    ],
}  # fmt: skip


def subset(mine: Any, theirs: Any) -> bool:
    """Return whether every field of mine has the same value in theirs."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return all(subset(value, theirs.get(key)) for key, value in mine.items())
    if isinstance(mine, list) and isinstance(theirs, list):
        return len(mine) == len(theirs) and all(map(subset, mine, theirs))
    return bool(mine == theirs)


@pytest.mark.parametrize("manifest", [FULL, MINIMAL], ids=["every field", "defaults"])
def test_both_readings_are_equal(manifest: dict[str, Any]) -> None:
    """Each field and each default that a worker knows is the contract's."""
    read = json.loads(msgspec.json.encode(msgspec.convert(manifest, lean.AgentSpec)))
    full = AgentTemplateSpec.model_validate(manifest).model_dump(mode="json", by_alias=True)

    assert subset(read, full)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (lean.HttpStep, full_steps.HttpStep),
        (lean.LlmStep, full_steps.LlmStep),
        (lean.CodeStep, full_steps.CodeStep),
        (lean.TransformStep, full_steps.TransformStep),
        (lean.McpStep, full_steps.McpStep),
        (lean.AgentStep, full_steps.AgentStep),
        (lean.AgentTool, full_steps.AgentTool),
        (lean.McpServer, full_steps.McpServer),
        (lean.ForEachStep, full_steps.ForEachStep),
        (lean.Retry, full_steps.Retry),
    ],
)
def test_no_field_of_a_step_is_forgotten(mine: type[msgspec.Struct], theirs: type[Model]) -> None:
    """A field that an author can write has a place in the worker."""
    written = {field.alias or name for name, field in theirs.model_fields.items()}

    assert written == set(mine.__struct_encode_fields__)


@pytest.mark.parametrize(
    ("step", "may"),
    [
        ({"http": {"url": "https://x", "method": "GET"}}, True),
        ({"http": {"url": "https://x", "method": "PUT"}}, True),
        ({"http": {"url": "https://x", "method": "POST"}}, False),
        ({"http": {"url": "https://x", "method": "PATCH"}}, False),
        ({"http": {"url": "https://x", "method": "POST"}, "idempotent": True}, True),
        ({"transform": {"value": "1"}}, True),
        ({"mcp": {"url": "https://x", "tool": "t"}}, False),
        ({"agent": {"endpoint": "", "model": "", "instructions": "", "prompt": ""}}, True),
        ({"mcp": {"url": "https://x", "tool": "t"}, "idempotent": True}, True),
        ({"forEach": {"items": "[]", "steps": []}}, True),
        ({"code": {"entrypoint": "a:b"}, "idempotent": False}, False),
    ],
)
def test_only_post_patch_and_mcp_must_not_be_repeated(step: dict[str, Any], may: bool) -> None:
    """Without `idempotent`, the kind of the step decides."""
    assert msgspec.convert({"name": "a", **step}, lean.Step).may_repeat is may


def test_a_step_knows_its_kind() -> None:
    """The member is the kind; a step of a later version is of an unknown one."""
    kinds = [msgspec.convert(s, lean.Step).kind for s in FULL["steps"]]
    unknown = msgspec.convert({"name": "a", "later": {"message": "?"}}, lean.Step)

    assert kinds == ["http", "llm", "code", "mcp", "agent", "forEach", "transform"]
    assert (unknown.kind, unknown.member) == ("unknown", None)
