"""Template contents as immutable revisions: their digest, their snapshot, and which may go."""

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from everesthood.apis import names
from everesthood.domain.children import Child, canonical, digest, label, make, short
from everesthood.domain.observed import Kind, Live

HISTORY: Final = 10
"""Revisions of a template that are kept although nothing refers to them any more."""


def snapshot(template: Live, spec: Mapping[str, object]) -> Child:
    """Return the ControllerRevision that keeps this content of the template."""
    content = digest(spec)
    labels = {names.LABEL_TEMPLATE: label(template.key.name), names.LABEL_REVISION: content}
    return make(
        Kind.REVISION,
        short(template.key.name, content[:10]),
        owner=template,
        labels=labels,
        content={"data": dict(spec), "revision": template.generation},
    )


def find(wanted: str, revisions: Iterable[Live]) -> str | None:
    """Return the full digest of the revision that a pin means; the pin may be its beginning."""
    matches = {r.revision for r in revisions if r.revision.startswith(wanted)}
    return matches.pop() if len(matches) == 1 else None


def content(revision: Live) -> bytes:
    """Return the template content that a ControllerRevision keeps."""
    return canonical(json.loads(revision.content).get("data") or {})


def superfluous(
    revisions: Iterable[Live], referenced: Collection[str], history: int = HISTORY
) -> tuple[Live, ...]:
    """Return the revisions to remove: those that nothing refers to, but for the newest few."""
    spare = sorted((r for r in revisions if r.revision not in referenced), key=_age, reverse=True)
    return tuple(spare[history:])


def _age(revision: Live) -> tuple[int, int]:
    return int(json.loads(revision.content).get("revision") or 0), revision.resource_version
