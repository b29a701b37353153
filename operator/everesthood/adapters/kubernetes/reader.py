"""Fresh reads of our own kinds for the admission webhook."""

import asyncio
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from pydantic import ValidationError

from everesthood.adapters.kubernetes.client import Client, object_path
from everesthood.apis.names import API_VERSION
from everesthood.apis.v1alpha1.credential import AgentCredentialSpec
from everesthood.apis.v1alpha1.fields import Model
from everesthood.apis.v1alpha1.template import AgentTemplateSpec
from everesthood.usecases.ports.cluster import ApiError

_Spec = TypeVar("_Spec", bound=Model)


class Reader:
    """Implements `usecases.ports.lookup.Lookup`."""

    def __init__(self, client: Client) -> None:
        """Read through this client."""
        self._client = client

    async def template(self, namespace: str, name: str) -> AgentTemplateSpec | None:
        """Return the template, or None when there is none or none that can be read."""
        return await self._spec(AgentTemplateSpec, "agenttemplates", namespace, name)

    async def credentials(self, namespace: str, names: Iterable[str]) -> Mapping[str, AgentCredentialSpec]:
        """Return those of the named credentials that are there."""
        wanted = sorted(names)
        found = await asyncio.gather(
            *(self._spec(AgentCredentialSpec, "agentcredentials", namespace, name) for name in wanted)
        )
        return {name: spec for name, spec in zip(wanted, found, strict=True) if spec is not None}

    async def users_of_template(self, namespace: str, name: str) -> list[str]:
        """Return the names of the instances that use a template and are not being deleted."""
        path = object_path(API_VERSION, "agentinstances", namespace=namespace)
        query: dict[str, str | int] = {"fieldSelector": f"spec.templateRef.name={name}", "limit": 500}
        answer = await self._client.get(path, query=query)
        living = (item["metadata"] for item in answer.get("items") or ())
        return [str(meta["name"]) for meta in living if "deletionTimestamp" not in meta]

    async def _spec(self, kind: type[_Spec], plural: str, namespace: str, name: str) -> _Spec | None:
        path = object_path(API_VERSION, plural, namespace=namespace, name=name)
        try:
            found: dict[str, Any] = await self._client.get(path)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        try:
            return kind.model_validate(found.get("spec"))
        except ValidationError:
            return None
