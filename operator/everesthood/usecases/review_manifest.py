"""Judge one write to an object of ours, as the API server asks before it stores it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from everesthood.apis.reasons import Reason
from everesthood.apis.v1alpha1.instance import AgentInstance
from everesthood.domain import manifests
from everesthood.domain.errors import Problem
from everesthood.domain.languages import Languages
from everesthood.domain.manifests import Manifest, Surroundings, Verdict
from everesthood.usecases.ports.lookup import Lookup

Operation = Literal["CREATE", "UPDATE", "DELETE"]
_SHOWN_USERS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What is about to happen to an object."""

    operation: Operation
    kind: str
    namespace: str
    name: str
    new: Mapping[str, Any] | None = None
    old: Mapping[str, Any] | None = None


async def review_manifest(
    review: Review, *, lookup: Lookup, languages: Languages, internal_hosts: frozenset[str]
) -> Verdict:
    """Return the verdict on one write. Raises Unavailable when the cluster cannot be asked."""
    if review.operation == "DELETE":
        return await _deletion(review, lookup)
    if review.new is None or _keeps_spec(review):
        return Verdict()
    # Reading expressions and templates is work for a processor, so the loop stays free of it.
    manifest = await asyncio.to_thread(manifests.read, review.new, languages)
    around = await _around(review, manifest, lookup)
    return await asyncio.to_thread(manifests.judge, manifest, around, languages, internal_hosts)


def _keeps_spec(review: Review) -> bool:
    """Return whether an update leaves the spec alone: finalizers and labels are always free."""
    return (
        review.operation == "UPDATE"
        and review.old is not None
        and review.new is not None
        and review.old.get("spec") == review.new.get("spec")
    )


async def _around(review: Review, manifest: Manifest, lookup: Lookup) -> Surroundings:
    if not isinstance(manifest.content, AgentInstance):
        return Surroundings()
    spec = manifest.content.spec
    bound = {binding.credential_ref.name for binding in spec.credentials}
    template, credentials = await asyncio.gather(
        lookup.template(review.namespace, spec.template_ref.name),
        lookup.credentials(review.namespace, bound),
    )
    return Surroundings(template=template, credentials=credentials)


async def _deletion(review: Review, lookup: Lookup) -> Verdict:
    if review.kind != "AgentTemplate":
        return Verdict()
    users = sorted(await lookup.users_of_template(review.namespace, review.name))
    if not users:
        return Verdict()
    more = len(users) - _SHOWN_USERS
    shown = ", ".join(users[:_SHOWN_USERS]) + (f" and {more} more" if more > 0 else "")
    message = f"template {review.name} is used by {shown}; delete those AgentInstances first"
    return Verdict(problems=(Problem("", message, Reason.IN_USE),))
