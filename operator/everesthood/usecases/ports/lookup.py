"""What the admission webhook asks the cluster while it judges one object."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from everesthood.apis.v1alpha1.credential import AgentCredentialSpec
from everesthood.apis.v1alpha1.template import AgentTemplateSpec


class Lookup(Protocol):
    """Reads of the API server, always fresh. Raises Unavailable when it cannot be asked."""

    async def template(self, namespace: str, name: str) -> AgentTemplateSpec | None:
        """Return the template, or None when there is none or none that can be read."""
        ...

    async def credentials(self, namespace: str, names: Iterable[str]) -> Mapping[str, AgentCredentialSpec]:
        """Return those of the named credentials that are there."""
        ...

    async def users_of_template(self, namespace: str, name: str) -> list[str]:
        """Return the names of the instances that use a template and are not being deleted."""
        ...
