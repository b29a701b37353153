"""Small manifests that tests change."""

import copy
from typing import Any

TEMPLATE: dict[str, Any] = {
    "apiVersion": "agents.everesthood.io/v1alpha1",
    "kind": "AgentTemplate",
    "metadata": {"name": "summary", "namespace": "acme"},
    "spec": {
        "displayName": "Summary",
        "configSchema": {
            "type": "object",
            "properties": {"limit": {"type": "integer"}},
            "additionalProperties": False,
        },
        "credentials": [{"name": "key", "hosts": ["models.example.com"]}],
        "egress": {"hosts": ["api.example.com", "models.example.com"]},
        "steps": [
            {"name": "fetch", "http": {"url": "https://api.example.com/{{ input.id }}"}},
            {
                "name": "ask",
                "needs": ["fetch"],
                "when": "steps.fetch.status == 200",
                "llm": {
                    "endpoint": "https://models.example.com/v1",
                    "model": "small",
                    "credential": "key",
                    "messages": [{"role": "user", "content": "{{ steps.fetch.body }}"}],
                    "outputSchema": {"type": "object"},
                },
            },
            {"name": "code", "needs": ["ask"], "code": {"entrypoint": "a:b", "args": "steps.fetch"}},
        ],
        "output": {"value": "steps.code", "schema": {"type": "object"}},
        "plans": [{"name": "free"}],
    },
}
INSTANCE: dict[str, Any] = {
    "apiVersion": "agents.everesthood.io/v1alpha1",
    "kind": "AgentInstance",
    "metadata": {"name": "daily", "namespace": "acme"},
    "spec": {
        "templateRef": {"name": "summary"},
        "plan": "free",
        "config": {"limit": 3},
        "credentials": [{"slot": "key", "credentialRef": {"name": "models"}}],
    },
}
CREDENTIAL: dict[str, Any] = {
    "apiVersion": "agents.everesthood.io/v1alpha1",
    "kind": "AgentCredential",
    "metadata": {"name": "models", "namespace": "acme"},
    "spec": {
        "source": {"secretRef": {"name": "models", "key": "token"}},
        "hosts": ["models.example.com", "other.example.com"],
    },
}


def template(**spec: Any) -> dict[str, Any]:
    """Return the template with fields of its spec replaced."""
    return _changed(TEMPLATE, spec)


def instance(**spec: Any) -> dict[str, Any]:
    """Return the instance with fields of its spec replaced."""
    return _changed(INSTANCE, spec)


def credential(**spec: Any) -> dict[str, Any]:
    """Return the credential with fields of its spec replaced."""
    return _changed(CREDENTIAL, spec)


def _changed(manifest: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(manifest)
    made["spec"] |= copy.deepcopy(spec)
    return made
