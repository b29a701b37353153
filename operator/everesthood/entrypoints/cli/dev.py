"""`everesthood dev`: an installation on this machine, for whoever writes an agent; reloads on save."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from everesthood.adapters.languages import Languages
from everesthood.adapters.manifests import Document, Unreadable, in_files
from everesthood.apis.v1alpha1.template import AgentTemplate
from everesthood.bootstrap.dev import Site, free_port, local_site
from everesthood.domain import manifests
from everesthood.domain.errors import EveresthoodError
from everesthood.domain.examples import example
from everesthood.domain.manifests import Manifest
from everesthood.domain.runs import FINAL, RunState
from everesthood.entrypoints.cli.crew import Member
from everesthood.entrypoints.cli.exits import Code, Stopped
from everesthood.usecases.ports.record import RunFilter
from everesthood.usecases.ports.registry import PublishedInstance
from everesthood.usecases.publish_files import LOCAL_NAMESPACE, Wanted, namespace_of, publish_files, wanted

_LOOK_SECONDS: Final = 0.3
_READY_SECONDS: Final = 60.0
_WATCHED: Final = frozenset({".yaml", ".yml", ".json", ".py"})
_SKIPPED: Final = frozenset({".git", ".venv", "node_modules", "__pycache__"})
_NAME_WIDTH: Final = 22


def dev(
    paths: Annotated[list[Path], typer.Argument(help="Manifests, or folders of manifests and code.")],
    *,
    port: Annotated[int, typer.Option(help="Port of the API on 127.0.0.1.")] = 8080,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="An address of this machine that agents may call, host:port; may be repeated."),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder for the runs; without it, one in /var/tmp for these files.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the runs of earlier times.")] = False,
) -> None:
    """Run agents from files on this machine, without Kubernetes, until Ctrl-C."""
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise Stopped(
            f"There is no {', '.join(missing)}.", Code.USAGE, "Name files or folders with manifests."
        )
    folders = [path.resolve() for path in paths]
    place = state.resolve() if state else _place(folders)
    try:
        asyncio.run(_serve(folders, place, port=port, internal_hosts=frozenset(allow or ()), fresh=fresh))
    except EveresthoodError as error:
        raise Stopped(error.message, Code.REFUSED) from None


def _place(folders: Sequence[Path]) -> Path:
    """Return the folder of this project's rows: one that the system's users can reach, as PostgreSQL must."""
    name = hashlib.sha256("\n".join(map(str, folders)).encode()).hexdigest()[:12]
    return Path(f"/var/tmp/everesthood-{os.geteuid()}") / name  # noqa: S108 - made with modes of its own


async def _serve(
    paths: Sequence[Path], place: Path, *, port: int, internal_hosts: frozenset[str], fresh: bool
) -> None:
    began = time.monotonic()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        stages: list[Stage] = []

        def begin(site: Site) -> None:
            stages.append(Stage(site, paths))
            stages[0].open()

        async def end() -> None:
            for begun in stages:
                await begun.close()

        opening = local_site(
            place,
            port=port,
            internal_hosts=internal_hosts,
            inherited=os.environ,
            fresh=fresh,
            meanwhile=begin,
        )
        stack.push_async_callback(end)
        site = await stack.enter_async_context(opening)
        stack.push_async_callback(end)  # before the servers, too: workers hand in what they hold
        (stage,) = stages
        # Before the first look at the files: what is saved from now on counts.
        seen = await asyncio.to_thread(_stamps, paths)
        await stage.load()
        await stage.ready(stop)
        if not stop.is_set():
            _welcome(site, stage, time.monotonic() - began)
            watching = [
                asyncio.create_task(_reload(stage, paths, seen)),
                asyncio.create_task(_tell_runs(stage)),
            ]
            stopping = asyncio.create_task(stop.wait())
            done, _ = await asyncio.wait([*watching, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in (*watching, stopping):
                task.cancel()
            for task in done - {stopping}:
                task.result()
        say("dev", "stops; runs that are not over go on at the next start")


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
                quietest="warning", say=say,
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

    async def close(self) -> None:
        """End workers first, so that they hand in what they hold."""
        await asyncio.gather(*(member.dismiss() for _, member in self._workers.values()))
        await asyncio.gather(*(member.dismiss() for member in self._staff))

    async def _bring_workers(
        self, new: Wanted, variables: Mapping[str, Mapping[str, str]], values: Mapping[str, Mapping[str, str]]
    ) -> None:
        code = _code(self.paths)
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
            quietest="info", say=say,
        )  # fmt: skip
        member.start()
        return member


def say(who: str, what: str) -> None:
    """Write what somebody says, each line under its name."""
    stamp = time.strftime("%H:%M:%S")
    for line in what.splitlines() or [""]:
        sys.stdout.write(f"{stamp} {who:<{_NAME_WIDTH}} {line}\n")
    sys.stdout.flush()


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


# --- changes ----------------------------------------------------------------------------------


_Stamps = dict[str, tuple[int, int]]


async def _reload(stage: Stage, paths: Sequence[Path], seen: _Stamps) -> None:
    async for changed in _changes(paths, seen):
        say("dev", f"{', '.join(sorted(changed))} changed")
        await stage.load()


async def _changes(paths: Sequence[Path], before: _Stamps) -> AsyncIterator[set[str]]:
    """Yield the names of files that changed, once they have been quiet for a moment."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        now = await asyncio.to_thread(_stamps, paths)
        if now == before:
            continue
        while (later := await _after_a_moment(paths)) != now:
            now = later
        yield {Path(name).name for name, _ in set(now.items()) ^ set(before.items())}
        before = now


async def _after_a_moment(paths: Sequence[Path]) -> _Stamps:
    await asyncio.sleep(_LOOK_SECONDS)
    return await asyncio.to_thread(_stamps, paths)


def _stamps(paths: Sequence[Path]) -> _Stamps:
    stamps = {}
    for path in _files(paths):
        with contextlib.suppress(OSError):
            seen = path.stat()
            stamps[str(path)] = (seen.st_mtime_ns, seen.st_size)
    return stamps


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, below, files in os.walk(path):
            below[:] = sorted(set(below) - _SKIPPED)
            yield from (Path(folder) / name for name in sorted(files) if Path(name).suffix in _WATCHED)


def _code(paths: Sequence[Path]) -> str:
    """Return a digest of the Python files: a worker that imported others must be started anew."""
    whole = hashlib.sha256()
    for path in _files(paths):
        if path.suffix == ".py":
            with contextlib.suppress(OSError):
                whole.update(str(path).encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()


# --- what happens ------------------------------------------------------------------------------


async def _tell_runs(stage: Stage) -> None:
    """Say what becomes of runs, and their log."""
    told: dict[str, tuple[str, int]] = {}
    since = time.time()
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        for namespace in {instance.namespace for instance in stage.published.instances}:
            with contextlib.suppress(EveresthoodError):
                await _tell_namespace(stage.site, namespace, told, since)


async def _tell_namespace(site: Site, namespace: str, told: dict[str, tuple[str, int]], since: float) -> None:
    page = await site.runs.list(RunFilter(namespace=namespace, limit=20))
    for run in reversed(page.runs):
        state, line = told.get(run.id, ("", 0))
        if run.created_at.timestamp() < since and not state and run.state in FINAL:
            continue
        if state in FINAL:
            continue
        who = f"run/{run.instance}"
        for entry in await site.runs.log(run.id, line):
            where = f"{entry.step}: " if entry.step else ""
            say(who, f"{where}{entry.message}")
            line = entry.seq
        if state != run.state:
            say(who, f"{run.id} is {run.state}{f': {run.message}' if run.message else ''}")
            if run.state is RunState.WAITING:
                say(who, f"answer: everesthood approve {run.id} -n {namespace} [--reject]")
        told[run.id] = (run.state, line)


def _first_run(stage: Stage, instance: PublishedInstance) -> str:
    """Return a command that the instance takes as it stands."""
    revisions = {(r.namespace, r.digest): r for r in stage.published.revisions}
    spec = json.loads(revisions[instance.namespace, instance.current_revision or ""].spec)
    schema = spec.get("inputSchema", {})
    found = example(schema, lambda value: not stage.languages.check(schema, value))
    given = shlex.quote("{}" if found is None else json.dumps(found, ensure_ascii=False))
    return f"  everesthood run {instance.name} -n {instance.namespace} --input {given} --follow"


def _welcome(site: Site, stage: Stage, seconds: float) -> None:
    say("dev", f"ready after {seconds:.1f} s: http://127.0.0.1:{site.port}/docs")
    lines = ["", "In another terminal:", f"  export EVERESTHOOD_SERVER=http://127.0.0.1:{site.port}",
             f"  export EVERESTHOOD_TOKEN={site.token}"]  # fmt: skip
    lines += [_first_run(stage, instance) for instance in stage.published.instances[:3]]
    sys.stdout.write("\n".join([*lines, "", ""]))
    sys.stdout.flush()
