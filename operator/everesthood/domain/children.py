"""The objects that the controller makes, and whether a live one still is what was asked for.

A child is complete intent for server-side apply. Its body is in the form in which the API server
stores it, so that comparing the two settles.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from everesthood.apis import names
from everesthood.domain.observed import API_VERSIONS, Key, Kind, Live

Json = dict[str, object]

_DIGEST_LENGTH: Final = 16
_NAME_LENGTH: Final = 63
_HASH_LENGTH: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One object as it should be."""

    key: Key
    owner: str
    hash: str
    labels: dict[str, str]
    content: Json
    body: Json
    """Everything, ready to be applied."""


def make(
    kind: Kind, name: str, *, owner: Live, labels: Mapping[str, str], content: Mapping[str, object]
) -> Child:
    """Return a child of `owner` in its namespace."""
    key = Key(kind, owner.key.namespace, name)
    all_labels = {names.LABEL_MANAGED_BY: names.MANAGED_BY, **labels}
    reference = _reference(owner)
    body: Json = {
        "apiVersion": API_VERSIONS[kind],
        "kind": kind.value,
        "metadata": {
            "name": name,
            "namespace": key.namespace,
            "labels": all_labels,
            "ownerReferences": [reference],
        },
        **content,
    }
    wanted = digest(body)
    metadata = {**body["metadata"], "annotations": {names.ANNOTATION_DESIRED_HASH: wanted}}  # type: ignore[dict-item]
    return Child(
        key=key,
        owner=owner.uid,
        hash=wanted,
        labels=all_labels,
        content=dict(content),
        body={**body, "metadata": metadata},
    )


def is_as_asked(child: Child, live: Live, *, settled: tuple[int, str] | None) -> bool:
    """Return whether there is nothing to apply.

    `settled` is the generation and hash right after the last apply: an object that has not changed
    since is left alone even where the API server stores a value in a form of its own.
    """
    if live.hash != child.hash or live.owner != child.owner:
        return False
    if any(live.labels.get(name) != value for name, value in child.labels.items()):
        return False
    if live.generation and settled == (live.generation, live.hash):
        return True
    return covers(json.loads(live.content), child.content)


def covers(live: object, wanted: object) -> bool:
    """Return whether everything wanted is there; what others added does not matter.

    The API server leaves out empty values of optional fields: absent is as good as empty.
    """
    if live is None:
        return not wanted
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(covers(live.get(k), v) for k, v in wanted.items())
    if isinstance(wanted, list | tuple):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(covers(a, b) for a, b in zip(live, wanted, strict=True))
        )
    return live == wanted


def canonical(value: object) -> bytes:
    """Return JSON that is the same for equal values, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: object) -> str:
    """Return the short name of a content."""
    return hashlib.sha256(canonical(value)).hexdigest()[:_DIGEST_LENGTH]


def short(*parts: str, limit: int = _NAME_LENGTH) -> str:
    """Return the parts as one name; what is too long is cut and told apart by a hash."""
    whole = "-".join(parts)
    if len(whole) <= limit:
        return whole
    tail = hashlib.sha256(whole.encode()).hexdigest()[:_HASH_LENGTH]
    return f"{whole[: limit - _HASH_LENGTH - 1].rstrip('-.')}-{tail}"


def label(name: str) -> str:
    """Return the name of an object as a label value."""
    return short(name)


def _reference(owner: Live) -> Json:
    return {
        "apiVersion": API_VERSIONS[owner.key.kind],
        "kind": owner.key.kind.value,
        "name": owner.key.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
