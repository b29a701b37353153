"""Reads what a client sends: bounded in bytes and time, and every fault said with its place."""

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Literal, TypeVar

import msgspec
from fastapi import Request

from everesthood.domain.doubts import Answer
from everesthood.domain.errors import Invalid, Problem
from everesthood.domain.runs import Dedupe, DedupeMode
from everesthood.entrypoints.web.middleware import BODY_BYTES
from everesthood.entrypoints.web.problems import TooLarge, WrongMedia
from everesthood.entrypoints.web.protocol import WHOLE

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_BODY_SECONDS: Final = 30
_FIRST_YEAR: Final = 1971
_LAST_YEAR: Final = 9998


class DedupeBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which requests are one run."""

    key: str
    mode: DedupeMode = "simple"
    seconds: int = 0


class RunBody(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """A request for a run, its input left as it came; the use case judges the values."""

    input: msgspec.Raw = msgspec.Raw(b"{}")
    priority: int = 0
    ttl_seconds: int | None = None
    labels: dict[str, str] = {}
    dedupe: DedupeBody | None = None

    @property
    def same(self) -> Dedupe | None:
        """Return which requests are one run, if the request says so."""
        one = self.dedupe
        return None if one is None else Dedupe(key=one.key, mode=one.mode, seconds=one.seconds)


class RunsBody(msgspec.Struct, forbid_unknown_fields=True):
    """A request for several runs of one instance."""

    runs: list[RunBody] = []


class ReplayBody(msgspec.Struct, forbid_unknown_fields=True):
    """A request for a replay; without an input, the old run's is taken."""

    input: msgspec.Raw = msgspec.Raw(b"")

    @property
    def given(self) -> bytes | None:
        """Return the input as JSON, if one came."""
        return bytes(self.input) or None


class ApprovalBody(msgspec.Struct, forbid_unknown_fields=True):
    """An answer to a question of a run."""

    approved: bool = True
    comment: str = ""


class ResolutionBody(msgspec.Struct, forbid_unknown_fields=True):
    """What became of a step in doubt; the use case judges the values."""

    outcome: Answer
    step: str | None = None
    output: msgspec.Raw = msgspec.Raw(b"null")
    comment: str = ""


class StopBody(msgspec.Struct, forbid_unknown_fields=True):
    """How an organisation is stopped."""

    message: str = ""
    runs: Literal["cancel", "finish"] = "cancel"


_Shape = TypeVar("_Shape", bound=msgspec.Struct)
_Bytes = TypeVar("_Bytes", bytes, bytearray)


async def read(request: Request, shape: type[_Shape]) -> _Shape:
    """Return the body of a request; none is the same as an empty object."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" or request.headers.get("content-encoding", "identity") != "identity":
        raise WrongMedia("Send the body as plain application/json.")
    body = await _body(request)
    try:
        return msgspec.json.decode(body or b"{}", type=shape)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"The request body cannot be read: {error}.", problems=(_at(error),)) from error


def idempotency_key(key: str | None) -> str | None:
    """Return the key if it can be one."""
    if key is None or _KEY.fullmatch(key):
        return key
    what = "must be 1 to 255 visible ASCII characters"
    problem = Problem("/header/idempotency-key", what)
    raise Invalid(f"The Idempotency-Key {what}.", problems=(problem,))


def labels(given: Sequence[str]) -> dict[str, str]:
    """Return labels that were written as NAME=VALUE."""
    pairs = [one.partition("=") for one in given]
    if any(not (name and sign) for name, sign, _ in pairs):
        raise Invalid("A label is NAME=VALUE.", problems=(Problem("/query/label", "must be NAME=VALUE"),))
    return {name: value for name, _, value in pairs}


def moment(given: datetime | None, name: str) -> datetime | None:
    """Return a time that ids can have; one without a zone is UTC."""
    if given is None:
        return None
    at = given if given.tzinfo else given.replace(tzinfo=UTC)
    if not _FIRST_YEAR <= at.year <= _LAST_YEAR:
        problem = Problem(f"/query/{name}", f"must be from {_FIRST_YEAR} to {_LAST_YEAR}")
        raise Invalid(f"{name} is no time that a run can have.", problems=(problem,))
    return at


async def _body(request: Request) -> bytes:
    server = request.scope.get("extensions", {}).get(WHOLE)
    whole: bytes | None = None if server is None else server["body"]()
    if whole is not None:
        return _bounded(whole)
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                _bounded(body)
    except TimeoutError as error:
        raise Invalid(f"The request body did not come within {_BODY_SECONDS} s.") from error
    return bytes(body)


def _bounded(body: _Bytes) -> _Bytes:
    if len(body) > BODY_BYTES:
        raise TooLarge(f"The request body is over {BODY_BYTES} bytes.")
    return body


def _at(error: Exception) -> Problem:
    what, _, where = str(error).partition(" - at `$")
    return Problem(where.rstrip("`").replace(".", "/"), what)
