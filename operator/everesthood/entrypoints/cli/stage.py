"""The processes of `everesthood dev`, and what is published: brought to what the files say."""

import asyncio
import base64
import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from everesthood.adapters.languages import Languages
from everesthood.adapters.manifests import Document, Unreadable, in_files
from everesthood.apis.v1alpha1.template import AgentTemplate
from everesthood.bootstrap.dev import Site, free_port
from everesthood.domain import manifests
from everesthood.domain.examples import example
from everesthood.domain.manifests import Manifest
from everesthood.entrypoints.cli.crew import Member
from everesthood.entrypoints.cli.forks import Forks
from everesthood.entrypoints.cli.saves import code_digest
from everesthood.entrypoints.cli.telling import say
from everesthood.usecases.ports.registry import PublishedInstance
from everesthood.usecases.publish_files import LOCAL_NAMESPACE, Wanted, namespace_of, publish_files, wanted

_READY_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Post:
    """What a worker was started for; another worker is needed when it differs."""

    revision: str
    code: str
    """Digest of the Python files."""
    config: bytes


@dataclass(slots=True)
class Stage:
    """All processes, and what is published."""

    site: Site
    paths: Sequence[Path]
    forks: Forks
    record_there: asyncio.Event = field(default_factory=asyncio.Event)
    languages: Languages = field(default_factory=Languages)
    published: Wanted = field(default_factory=Wanted)
    _staff: list[Member] = field(default_factory=list)
    _workers: dict[str, tuple[_Post, Member]] = field(default_factory=dict)
    _seats: dict[str, Any] = field(default_factory=dict)

    def open(self) -> None:
        """Start web, gateway and scheduler."""
        self.site.tell((), {})
        ports = {"gateway": self.site.gateway_port, "scheduler": 0, "web": self.site.port}
        for name, http_port in ports.items():
            metrics = free_port()
            environment = self.site.process(metrics_port=metrics) | {"EVERESTHOOD_HTTP_PORT": str(http_port)}
            member = Member(
                name=name, process=name, environment=environment, metrics_port=metrics,
                forks=self.forks, needed=self.record_there.wait, quietest="warning", say=say,
            )  # fmt: skip
            self._staff.append(member)
            member.start()

    async def load(self) -> None:
        """Publish what the files say, and bring workers to it; what is wrong keeps what was good."""
        documents = list(in_files(self.paths))
        found = _judged(documents, self.languages, self.site.internal_hosts)
        if found is None:
            say("dev", "nothing was changed; correct the files above")
            return
        new = wanted(found, generation=time.time_ns())
        for sentence in new.waiting:
            say("dev", sentence)
        await publish_files(new, registry=self.site.registry)
        self.published = new
        await self._bring_workers(new, _variables(found), _secrets(documents))

    async def ready(self, stop: asyncio.Event) -> None:
        """Wait until every process can serve."""
        deadline = time.monotonic() + _READY_SECONDS
        waiting = [*self._staff, *(member for _, member in self._workers.values())]
        while waiting and not stop.is_set():
            waiting = [member for member in waiting if not await member.is_ready()]
            if waiting and time.monotonic() > deadline:
                for member in waiting:
                    member.speak()
                say("dev", f"not ready: {', '.join(member.name for member in waiting)}")
                return
            if waiting:
                await asyncio.sleep(0.05)

    def namespaces(self) -> set[str]:
        """Return where instances are published."""
        return {instance.namespace for instance in self.published.instances}

    def first_run(self, instance: PublishedInstance) -> str:
        """Return a command that the instance takes as it stands."""
        revisions = {(r.namespace, r.digest): r for r in self.published.revisions}
        spec = json.loads(revisions[instance.namespace, instance.current_revision or ""].spec)
        schema = spec.get("inputSchema", {})
        found = example(schema, lambda value: not self.languages.check(schema, value))
        given = shlex.quote("{}" if found is None else json.dumps(found, ensure_ascii=False))
        return f"  everesthood run {instance.name} -n {instance.namespace} --input {given} --follow"

    async def close(self) -> None:
        """End workers first, so that they hand in what they hold."""
        await asyncio.gather(*(member.dismiss() for _, member in self._workers.values()))
        await asyncio.gather(*(member.dismiss() for member in self._staff))

    async def _bring_workers(
        self, new: Wanted, variables: Mapping[str, Mapping[str, str]], values: Mapping[str, Mapping[str, str]]
    ) -> None:
        code = code_digest(self.paths)
        posts = {
            i.uid: _Post(revision=i.current_revision or "", code=code, config=i.config) for i in new.instances
        }
        leaving = [
            uid for uid, (post, _) in self._workers.items() if posts.get(uid) != post
        ]  # config is part of what a worker fetches when it starts
        gone = [self._workers.pop(uid)[1] for uid in leaving]
        for uid in leaving:
            del self._seats[uid]
        arriving = [instance for instance in new.instances if instance.uid not in self._workers]
        self._seats |= {instance.uid: self.site.seat(instance) for instance in arriving}
        self.site.tell([*self._seats.values()], values)
        for instance in arriving:
            self._workers[instance.uid] = (posts[instance.uid], self._hire(instance, variables))
        await asyncio.gather(*(member.dismiss() for member in gone))

    def _hire(self, instance: PublishedInstance, variables: Mapping[str, Mapping[str, str]]) -> Member:
        metrics, name = free_port(), f"worker/{instance.name}"
        environment = self.site.worker(
            self._seats[instance.uid],
            name=name,
            metrics_port=metrics,
            folders=[path if path.is_dir() else path.parent for path in self.paths],
            variables=variables.get(f"{instance.namespace}/{instance.template}", {}),
        )
        member = Member(
            name=name, process="worker", environment=environment, metrics_port=metrics,
            forks=self.forks, needed=partial(self._can_work, instance.uid), quietest="info", say=say,
        )  # fmt: skip
        member.start()
        return member

    async def _can_work(self, uid: str) -> None:
        """Wait until a worker of the instance finds what it asks for first: the gateway, and its queue."""
        for member in self._staff:
            if member.process == "gateway":
                await member.can_serve.wait()
        await self.site.queue_ready(uid)


def _judged(
    documents: Sequence[tuple[str, Document | Unreadable]],
    languages: Languages,
    internal_hosts: frozenset[str],
) -> list[Manifest] | None:
    """Return the manifests, or None after saying what is wrong with them."""
    wrong = False
    read: list[tuple[str, Document, Manifest]] = []
    for file, document in documents:
        if isinstance(document, Unreadable):
            say("dev", f"{file}:{document.line}: {document.message}")
            wrong = True
        elif manifests.is_ours(document.value):
            read.append((file, document, manifests.read(document.value, languages)))
    verdicts = manifests.judge_all([manifest for *_, manifest in read], languages, internal_hosts)
    for (file, document, _), verdict in zip(read, verdicts, strict=True):
        for problem in verdict.problems:
            say("dev", f"{file}:{document.line_of(problem.path)}: {problem.path}: {problem.message}")
            wrong = True
    return None if wrong else [manifest for *_, manifest in read]


def _variables(found: Sequence[Manifest]) -> dict[str, dict[str, str]]:
    """Return the plain environment variables that each template gives its workers."""
    return {
        f"{namespace_of(m)}/{m.name}": {
            variable.name: variable.value for variable in m.content.spec.worker.env
        }
        for m in found
        if isinstance(m.content, AgentTemplate)
    }


def _secrets(documents: Sequence[tuple[str, Document | Unreadable]]) -> dict[str, dict[str, str]]:
    """Return the values of the Secrets among the manifests, by `namespace/name`."""
    return dict(_each_secret(document.value for _, document in documents if isinstance(document, Document)))


def _each_secret(values: Iterator[Any]) -> Iterator[tuple[str, dict[str, str]]]:
    for value in values:
        if isinstance(value, dict) and value.get("kind") == "Secret":
            metadata = value.get("metadata") or {}
            name = f"{metadata.get('namespace') or LOCAL_NAMESPACE}/{metadata.get('name')}"
            plain = {str(key): str(text) for key, text in (value.get("stringData") or {}).items()}
            coded = {}
            for key, text in (value.get("data") or {}).items():
                try:
                    coded[str(key)] = base64.b64decode(str(text), validate=True).decode()
                except ValueError:
                    say("dev", f"Secret {name}: data.{key} is not text in base64; it is left out")
            yield name, coded | plain
