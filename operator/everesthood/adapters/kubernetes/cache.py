"""What the watches and lists have brought, with indexes both ways; implements the port `View`.

Objects are trimmed to what decisions read before they are kept: a cache of thousands stays small.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any, Final

import msgspec

from everesthood.apis import names
from everesthood.apis.reasons import ConditionType
from everesthood.domain.observed import OURS, Key, Kind, Live

Json = Mapping[str, Any]

_NOT_CONTENT: Final = frozenset({"apiVersion", "kind", "metadata", "status"})
_DEPLOYMENT_STATUS: Final = ("observedGeneration", "replicas", "updatedReplicas", "availableReplicas")
_CONDITION: Final = ("type", "status", "reason", "message")


@dataclass(frozen=True, slots=True)
class Change:
    """What became of an object: `before` is None for a new one, `after` for one that is gone."""

    before: Live | None
    after: Live | None

    @property
    def key(self) -> Key:
        """Return which object."""
        known = self.after or self.before
        assert known is not None  # noqa: S101 - one of the two is there
        return known.key

    @property
    def is_relevant(self) -> bool:
        """Return whether anything that decisions read differs."""
        if self.before is None or self.after is None:
            return True
        return _essence(self.before) != _essence(self.after)

    @property
    def matters_to_users(self) -> bool:
        """Return whether those that name the object have to know: of a template, only a new verdict."""
        if self.before is None or self.after is None or self.key.kind is not Kind.TEMPLATE:
            return True
        return _verdict(self.before) != _verdict(self.after)


def _verdict(live: Live) -> tuple[object, ...]:
    status = msgspec.json.decode(live.status)
    found = [c for c in status.get("conditions") or () if c.get("type") == ConditionType.ACCEPTED]
    accepted = [(c.get("status"), c.get("message")) for c in found]
    return (live.uid, live.deleting, status.get("revision"), accepted)


def _essence(live: Live) -> tuple[object, ...]:
    # An AgentInstance's status is written by the controller alone: hearing of it again is no news.
    status = b"" if live.key.kind is Kind.INSTANCE else live.status
    about = (live.uid, live.deleting, live.finalizers, live.owner, live.labels, live.annotations)
    return (*about, live.content, status)


class Cache:
    """Objects by key, by controlling owner and by what they name."""

    def __init__(self) -> None:
        """Start empty."""
        self._objects: dict[Kind, dict[Key, Live]] = {kind: {} for kind in Kind}
        self._owned: defaultdict[str, dict[Key, Live]] = defaultdict(dict)
        self._referrers: defaultdict[Key, set[Key]] = defaultdict(set)
        self._uids: dict[str, Key] = {}

    def get(self, key: Key) -> Live | None:
        """Return an object."""
        return self._objects[key.kind].get(key)

    def owned_by(self, uid: str) -> tuple[Live, ...]:
        """Return the objects that are controlled by the one with that uid, in the order of their keys."""
        owned = self._owned.get(uid)
        return tuple(owned[key] for key in sorted(owned)) if owned else ()

    def knows(self, uid: str) -> bool:
        """Return whether an object of ours with that uid exists."""
        return uid in self._uids

    def key_of(self, uid: str) -> Key | None:
        """Return which object of ours has that uid."""
        return self._uids.get(uid)

    def referrers(self, key: Key) -> tuple[Key, ...]:
        """Return the objects that name this one."""
        return tuple(self._referrers.get(key, ()))

    def keys(self, kind: Kind) -> tuple[Key, ...]:
        """Return all objects of a kind."""
        return tuple(self._objects[kind])

    def keys_of_published(self) -> tuple[Key, ...]:
        """Return all objects that stand in the record too."""
        return (*self._objects[Kind.INSTANCE], *self._objects[Kind.CREDENTIAL])

    def uids(self, kind: Kind) -> frozenset[str]:
        """Return the uids of all objects of a kind."""
        return frozenset(live.uid for live in self._objects[kind].values())

    def put(self, live: Live) -> Change | None:
        """Keep an object unless a newer state of it is known; None when it is no news."""
        before = self._objects[live.key.kind].get(live.key)
        if before is not None and before.resource_version >= live.resource_version:
            return None
        if before is not None:
            self._unlink(before)
        self._link(live)
        return Change(before, live)

    def drop(self, live: Live) -> Change | None:
        """Forget an object, unless another of that name took its place."""
        before = self._objects[live.key.kind].get(live.key)
        if before is None or before.uid != live.uid:
            return None
        self._unlink(before)
        return Change(before, None)

    def replace(self, kind: Kind, listed: Iterable[Live], version: int) -> list[Change]:
        """Take over a complete list, and drop what is neither in it nor newer than it."""
        seen: set[Key] = set()
        changes: list[Change] = []
        for live in listed:
            seen.add(live.key)
            change = self.put(live)
            if change is not None:
                changes.append(change)
        for key, live in list(self._objects[kind].items()):
            if key not in seen and live.resource_version <= version:
                self._unlink(live)
                changes.append(Change(live, None))
        return changes

    def _link(self, live: Live) -> None:
        self._objects[live.key.kind][live.key] = live
        if live.owner:
            self._owned[live.owner][live.key] = live
        if live.key.kind in OURS:
            self._uids[live.uid] = live.key
        for ref in live.refs:
            self._referrers[ref].add(live.key)

    def _unlink(self, live: Live) -> None:
        del self._objects[live.key.kind][live.key]
        if live.owner:
            owned = self._owned[live.owner]
            owned.pop(live.key, None)
            if not owned:
                del self._owned[live.owner]
        self._uids.pop(live.uid, None)
        for ref in live.refs:
            self._referrers[ref].discard(live.key)
            if not self._referrers[ref]:
                del self._referrers[ref]


def live_of(kind: Kind, raw: Json) -> Live:
    """Return an object of the API server, trimmed; of strangers only whose they are."""
    meta = raw["metadata"]
    labels = meta.get("labels") or {}
    is_kept = kind in OURS or labels.get(names.LABEL_MANAGED_BY) == names.MANAGED_BY
    content = {n: value for n, value in raw.items() if is_kept and n not in _NOT_CONTENT}
    return Live(
        key=Key(kind, intern(meta.get("namespace", "")), meta["name"]),
        uid=meta["uid"],
        resource_version=int(meta["resourceVersion"]),
        generation=meta.get("generation", 0),
        owner=_owner(meta),
        deleting="deletionTimestamp" in meta,
        finalizers=tuple(meta.get("finalizers") or ()),
        labels={} if kind in OURS else _interned(labels),
        annotations={k: v for k, v in (meta.get("annotations") or {}).items() if k.startswith(names.GROUP)},
        content=msgspec.json.encode(content),
        status=msgspec.json.encode(_status(kind, raw.get("status") or {})),
        refs=_refs(kind, meta.get("namespace", ""), raw.get("spec")),
    )


def _owner(meta: Json) -> str:
    for reference in meta.get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference["uid"])
    return ""


def _interned(labels: Mapping[str, str]) -> dict[str, str]:
    return {intern(name): intern(value) for name, value in labels.items()}


def _status(kind: Kind, status: Json) -> Json:
    if kind in OURS:
        return status
    if kind is not Kind.DEPLOYMENT:
        return {}
    kept = {name: status[name] for name in _DEPLOYMENT_STATUS if name in status}
    found = ({n: c[n] for n in _CONDITION if n in c} for c in status.get("conditions") or ())
    return {**kept, "conditions": sorted(found, key=lambda c: c["type"])}


def _refs(kind: Kind, namespace: str, spec: object) -> tuple[Key, ...]:
    """Return what an AgentInstance names; tolerant, for a spec may be anything before it is judged."""
    if kind is not Kind.INSTANCE or not isinstance(spec, Mapping):
        return ()
    bound = spec.get("credentials")
    named = [(Kind.TEMPLATE, spec.get("templateRef"))]
    named += [(Kind.CREDENTIAL, b.get("credentialRef")) for b in bound or () if isinstance(b, Mapping)]
    return tuple(
        dict.fromkeys(
            Key(of, namespace, ref["name"])
            for of, ref in named
            if isinstance(ref, Mapping) and isinstance(ref.get("name"), str)
        )
    )
