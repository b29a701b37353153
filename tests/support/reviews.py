"""An API server as far as TokenReview, SubjectAccessReview and reads of objects go.

It keeps to the published contract of `authentication.k8s.io/v1` and `authorization.k8s.io/v1`, traps
included: a token is reviewed for the server's own audience unless audiences are named, an answer lists
only the audiences that fit, and an access review without a user is refused.
"""

import base64
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from everesthood.domain.errors import Unavailable
from everesthood.usecases.ports.cluster import ApiError

OWN_AUDIENCE = "https://kubernetes.default.svc.cluster.local"
Grant = tuple[str, str, str, str, str]
"""User, namespace, verb, subresource, name of the instance or *."""


@dataclass(slots=True)
class FakeApiServer:
    tokens: dict[str, tuple[dict[str, Any], set[str]]] = field(default_factory=dict)
    grants: set[Grant] = field(default_factory=set)
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    """Beginnings of paths that our own account may not read."""
    down: bool = False
    ignores_audiences: bool = False
    calls: Counter[str] = field(default_factory=Counter)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def know(self, token: str, username: str, *audiences: str, **user: Any) -> str:
        self.tokens[token] = ({"username": username, **user}, set(audiences or {OWN_AUDIENCE}))
        return token

    def grant(self, username: str, namespace: str, *needs: str, name: str = "*") -> None:
        for need in needs:
            verb, _, subresource = need.partition(" ")
            self.grants.add((username, namespace, verb, subresource, name))

    def secret(self, namespace: str, name: str, **values: str) -> None:
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        self.objects[f"/api/v1/namespaces/{namespace}/secrets/{name}"] = {"data": data}

    async def request(self, method: str, path: str, *, body: object = None) -> dict[str, Any]:
        if self.down:
            raise Unavailable("Kubernetes cannot be reached.")
        self.calls[path.rsplit("/", 1)[-1]] += 1
        if any(path.startswith(start) for start in self.forbidden):
            raise ApiError("forbidden: no", status=403)
        if method == "POST":
            sent = json.loads(json.dumps(body))
            self.asked.append(sent)
            return self._review(path, sent)
        if path not in self.objects:
            raise ApiError("not found", status=404)
        return self.objects[path]

    def _review(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/tokenreviews"):
            return {**body, "status": self._token(body["spec"])}
        return {**body, "status": self._access(body["spec"])}

    def _token(self, spec: dict[str, Any]) -> dict[str, Any]:
        found = self.tokens.get(spec["token"])
        wanted = set(spec.get("audiences") or {OWN_AUDIENCE})
        if self.ignores_audiences and found:
            return {"authenticated": True, "user": found[0]}
        if found is None or not found[1] & wanted:
            return {"user": {}, "error": "[invalid bearer token, token audiences do not fit]"}
        return {"authenticated": True, "user": found[0], "audiences": sorted(found[1] & wanted)}

    def _access(self, spec: dict[str, Any]) -> dict[str, Any]:
        if not spec.get("user") and not spec.get("groups"):
            raise ApiError("at least one of user or group must be specified", status=422)
        asked = spec["resourceAttributes"]
        assert (asked["group"], asked["resource"]) == ("agents.everesthood.io", "agentinstances")
        wanted = (spec["user"], asked["namespace"], asked["verb"], asked["subresource"])
        names = {"*", asked["name"]} if asked["name"] else {"*"}
        return {"allowed": any((*wanted, name) in self.grants for name in names)}
