"""Reads what a client sends: bounded in bytes and time, and every fault said with its place."""

import asyncio
import re
from typing import Final

import msgspec
from fastapi import Request

from everesthood.domain.errors import Invalid, Problem
from everesthood.entrypoints.web.middleware import BODY_BYTES
from everesthood.entrypoints.web.problems import TooLarge, WrongMedia

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_BODY_SECONDS: Final = 30


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """A request for a run, its input left as it came."""

    input: msgspec.Raw = msgspec.Raw(b"{}")


async def run_input(request: Request) -> bytes:
    """Return the input of a RunWish as JSON."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" or request.headers.get("content-encoding", "identity") != "identity":
        raise WrongMedia("Send the body as plain application/json.")
    body = await _body(request)
    if not body:
        return b"{}"
    try:
        return bytes(msgspec.json.decode(body, type=_Body).input)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"The request body cannot be read: {error}.", problems=(_at(error),)) from error


def idempotency_key(key: str | None) -> str | None:
    """Return the key if it can be one."""
    if key is None or _KEY.fullmatch(key):
        return key
    what = "must be 1 to 255 visible ASCII characters"
    problem = Problem("/header/idempotency-key", what)
    raise Invalid(f"The Idempotency-Key {what}.", problems=(problem,))


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_BYTES:
                    raise TooLarge(f"The request body is over {BODY_BYTES} bytes.")
    except TimeoutError as error:
        raise Invalid(f"The request body did not come within {_BODY_SECONDS} s.") from error
    return bytes(body)


def _at(error: Exception) -> Problem:
    what, _, where = str(error).partition(" - at `$")
    return Problem(where.rstrip("`").replace(".", "/"), what)
