"""Accept a run: check the input against the instance's contract, commit the row, ring the bell."""

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Protocol

import msgspec

from everesthood.apis.reasons import Reason
from everesthood.apis.v1alpha1.template import AgentTemplateSpec
from everesthood.domain.errors import Conflict, Invalid, NotFound, Problem
from everesthood.domain.run_ids import RANDOM_BYTES, accepted_at, uuid7_text
from everesthood.domain.runs import (
    HIGHEST_PRIORITY,
    LONGEST_LABEL,
    LONGEST_TTL_SECONDS,
    LONGEST_WINDOW_SECONDS,
    MOST_LABELS,
    Dedupe,
    Run,
    RunId,
    RunRequest,
    RunRetry,
    RunState,
)
from everesthood.usecases.ports.bell import Bell
from everesthood.usecases.ports.record import InstanceTarget, RunStore

INPUT_BYTES: Final = 262_144
_QUICK_BYTES: Final = 4096
_MOST_CONTRACTS: Final = 1000
_DEDUPE_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
LABEL: Final = re.compile(rf"[A-Za-z0-9](?:[A-Za-z0-9._/-]{{0,{LONGEST_LABEL - 2}}}[A-Za-z0-9])?")
_OPTIONS: Final[Mapping[str, object]] = {
    "priority": 0, "ttl_seconds": None, "labels": {}, "dedupe": None, "replay_of": None,
}  # fmt: skip
"""What a request may say beside its input, with what it is when it says nothing."""


class Schemas(Protocol):
    """Checks values against JSON Schemas."""

    def check(self, schema: Mapping[str, object], value: object) -> list[tuple[str, str]]:
        """Return (JSON pointer, problem) of a value against a schema."""
        ...

    def quick_test(self, schema: Mapping[str, object]) -> Callable[[object], bool]:
        """Return a test whose yes is sure, and whose no says nothing: for that, `check`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A run that somebody wants; `input` is JSON as it came."""

    namespace: str
    instance: str
    input: bytes
    requested_by: str
    request_id: str
    idempotency_key: str | None = None
    schedule: str | None = None
    """Schedule of the instance that the run belongs to, when somebody runs it now."""
    priority: int = 0
    ttl_seconds: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    dedupe: Dedupe | None = None
    replay_of: RunId | None = None
    seconds_left: int | None = None
    """What is left of the time of whoever asks; the run gets no more than that to start and to end.

    Not part of what tells a repeat from a clash: a repeat has less.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The accepted run; `repeated` when the same wish was accepted before."""

    run: Run
    repeated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contract:
    """What a revision asks of a run."""

    input_schema: Mapping[str, object]
    keeps_schema: Callable[[object], bool]
    """Its yes is sure; a no is not."""
    schema_bytes: int
    max_attempts: int
    max_run_seconds: int
    retry: RunRetry


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRun:
    """The use case with what it needs."""

    runs: RunStore
    bell: Bell
    schemas: Schemas
    now: Callable[[], datetime]
    random: Callable[[int], bytes]
    _contracts: OrderedDict[tuple[str, str], _Contract] = field(default_factory=OrderedDict)

    async def __call__(self, wish: Wish) -> Answer:
        """Return the durably accepted run.

        Raises:
            NotFound: no such instance.
            Conflict: the instance never had a good revision, or the idempotency key clashes.
            Invalid: the input breaks the input schema or is too large.
            Unavailable: the record is down; nothing was accepted.
        """
        check_options(wish)
        target = await self.runs.target(wish.namespace, wish.instance)
        if target is None:
            raise NotFound(
                f"There is no AgentInstance {wish.instance!r} in namespace {wish.namespace!r}.",
                Reason.INSTANCE_NOT_FOUND,
            )
        contract = self._contract(target)
        value = _parsed(wish.input)
        await self._check(contract, wish.input, value)
        request = self._request(wish, target, contract, digest=_digest(wish, value))
        accepted = await self.runs.accept(request)
        if accepted.ring:
            await self.bell.ring(*accepted.ring)
        if accepted.repeated:
            return Answer(run=await self._earlier(wish.namespace, accepted.run), repeated=True)
        return Answer(run=_queued(request), repeated=False)

    def _contract(self, target: InstanceTarget) -> _Contract:
        if target.current_revision is None or target.template_spec is None:
            raise Conflict(
                f"AgentInstance {target.name!r} has never had a good revision, so nothing could run;"
                f" `kubectl describe agi {target.name} -n {target.namespace}` says why.",
                Reason.INSTANCE_NOT_READY,
            )
        # The namespace is in the key: a digest is short enough to be forged for one's own template.
        key = (target.namespace, target.current_revision)
        if key not in self._contracts:
            self._contracts[key] = _read(target.template_spec, self.schemas)
            if len(self._contracts) > _MOST_CONTRACTS:
                self._contracts.popitem(last=False)
        return self._contracts[key]

    async def _check(self, contract: _Contract, given: bytes, value: object) -> None:
        if not contract.input_schema:
            return
        if max(len(given), contract.schema_bytes) <= _QUICK_BYTES:
            if contract.keeps_schema(value):
                return
            found = self.schemas.check(contract.input_schema, value)
        else:
            found = await asyncio.to_thread(self.schemas.check, contract.input_schema, value)
        if found:
            raise Invalid(_sentence(found), Reason.INPUT_INVALID, _problems(found))

    def _request(
        self, wish: Wish, target: InstanceTarget, contract: _Contract, *, digest: bytes
    ) -> RunRequest:
        return RunRequest(
            id=RunId(uuid7_text(int(self.now().timestamp() * 1000), self.random(RANDOM_BYTES))),
            namespace=wish.namespace,
            instance=wish.instance,
            instance_uid=target.uid,
            input=wish.input,
            requested_by=wish.requested_by,
            request_id=wish.request_id,
            max_attempts=contract.max_attempts,
            max_run_seconds=min(contract.max_run_seconds, wish.seconds_left or contract.max_run_seconds),
            retry=contract.retry,
            idempotency_key=wish.idempotency_key,
            request_digest=digest,
            schedule=wish.schedule,
            priority=wish.priority,
            ttl_seconds=wish.ttl_seconds or wish.seconds_left,
            labels=wish.labels,
            dedupe=wish.dedupe,
            replay_of=wish.replay_of,
        )

    async def _earlier(self, namespace: str, run: RunId) -> Run:
        found = await self.runs.get(namespace, run)
        if found is None:
            raise NotFound(f"The run {run} of this Idempotency-Key is no longer kept.")
        return found


def _read(spec: bytes, schemas: Schemas) -> _Contract:
    template = AgentTemplateSpec.model_validate_json(spec)
    retry = template.queue.retry
    return _Contract(
        input_schema=template.input_schema,
        keeps_schema=schemas.quick_test(template.input_schema),
        schema_bytes=len(msgspec.json.encode(template.input_schema)),
        max_attempts=template.queue.max_attempts,
        max_run_seconds=template.queue.max_run_seconds,
        retry=RunRetry() if retry is None else RunRetry(**retry.model_dump()),
    )


def _parsed(given: bytes) -> object:
    if len(given) > INPUT_BYTES:
        raise _invalid(f"is larger than {INPUT_BYTES} bytes")
    try:
        return msgspec.json.decode(given)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"cannot be read: {error}") from error


def _invalid(what: str) -> Invalid:
    problem = Problem("/input", what, Reason.INPUT_INVALID)
    return Invalid(f"The input {what}.", Reason.INPUT_INVALID, (problem,))


def _digest(wish: Wish, value: object) -> bytes:
    """Return what tells a repeat from a clash; white space and the order of keys do not count."""
    canonical = msgspec.json.encode(value, order="deterministic")
    parts = [wish.instance.encode(), canonical]
    options = {
        name: getattr(wish, name) for name, default in _OPTIONS.items() if getattr(wish, name) != default
    }
    if options:
        parts.append(msgspec.json.encode(options, order="deterministic"))
    if wish.schedule is not None:
        parts.append(wish.schedule.encode())
    return hashlib.sha256(b"\0".join(parts)).digest()


def check_options(wish: Wish) -> None:
    """Return if everything but the input is as it may be."""
    problems = tuple(_option_problems(wish))
    if problems:
        said = f"{problems[0].path}: {problems[0].message}"
        raise Invalid(f"The request breaks a rule: {said}.", problems=problems)


def _option_problems(wish: Wish) -> Iterator[Problem]:
    if not 0 <= wish.priority <= HIGHEST_PRIORITY:
        yield Problem("/priority", f"must be from 0 to {HIGHEST_PRIORITY}", Reason.BAD_REQUEST)
    if wish.ttl_seconds is not None and not 1 <= wish.ttl_seconds <= LONGEST_TTL_SECONDS:
        yield Problem("/ttlSeconds", f"must be from 1 to {LONGEST_TTL_SECONDS}", Reason.BAD_REQUEST)
    if wish.dedupe is not None:
        yield from _dedupe_problems(wish.dedupe, wish.ttl_seconds)
    if len(wish.labels) > MOST_LABELS:
        yield Problem("/labels", f"must be at most {MOST_LABELS}", Reason.BAD_REQUEST)
    for name, value in wish.labels.items():
        if not (LABEL.fullmatch(name) and (value == "" or LABEL.fullmatch(value))):
            what = f"{name!r}: names and values are as Kubernetes' labels, at most {LONGEST_LABEL} characters"
            yield Problem("/labels", what, Reason.BAD_REQUEST)


def _sentence(found: list[tuple[str, str]]) -> str:
    where, what = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"The input does not match the input schema: {f'/input{where}'} {what}{more}"


def _problems(found: list[tuple[str, str]]) -> tuple[Problem, ...]:
    return tuple(Problem(f"/input{where}", what, Reason.INPUT_INVALID) for where, what in found)


def _queued(request: RunRequest) -> Run:
    at = accepted_at(request.id)
    return Run(
        id=request.id,
        namespace=request.namespace,
        instance=request.instance,
        instance_uid=request.instance_uid,
        state=RunState.QUEUED,
        input=request.input,
        requested_by=request.requested_by,
        request_id=request.request_id,
        created_at=at,
        schedule=request.schedule,
        due_at=at + timedelta(seconds=_pause(request)) if request.dedupe else at,
        priority=request.priority,
        expires_at=None if request.ttl_seconds is None else at + timedelta(seconds=request.ttl_seconds),
        replay_of=request.replay_of,
        labels=request.labels,
    )


def _dedupe_problems(dedupe: Dedupe, ttl_seconds: int | None) -> Iterator[Problem]:
    if not _DEDUPE_KEY.fullmatch(dedupe.key):
        yield Problem("/dedupe/key", "must be 1 to 255 visible ASCII characters", Reason.BAD_REQUEST)
    least, most = (0, 0) if dedupe.mode == "simple" else (1, LONGEST_WINDOW_SECONDS)
    if not least <= dedupe.seconds <= most:
        what = f"must be from {least} to {most} where the mode is {dedupe.mode}"
        yield Problem("/dedupe/seconds", what, Reason.BAD_REQUEST)
    if dedupe.mode == "debounce" and ttl_seconds is not None and ttl_seconds <= dedupe.seconds:
        yield Problem("/ttlSeconds", "must be more than dedupe.seconds", Reason.BAD_REQUEST)


def _pause(request: RunRequest) -> int:
    return request.dedupe.seconds if request.dedupe and request.dedupe.mode == "debounce" else 0
