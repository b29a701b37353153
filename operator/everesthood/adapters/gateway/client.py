"""GatewayClient: each message of `apis.wire` as one HTTP call, with the pod's token.

The token is read again when the kubelet has replaced the file. A call that fails for a moment is
repeated for a moment; beyond that it raises, and the work loop keeps what it wanted to hand in. So it does
with what a gateway does not know yet that the upgrade has not reached.
"""

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, TypeVar

import httpx2
import msgspec
import stamina
import structlog

from everesthood.apis import wire
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import EveresthoodError, Forbidden, Refused, Unauthenticated, Unavailable

REVISION_HEADER: Final = "X-Everesthood-Revision"
_CALL_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 6.0
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

Reply = TypeVar("Reply")
Observe = Callable[[str, Literal["ok", "failed"], float], None]


class _Problem(msgspec.Struct):
    """The part of a problem+json that matters here."""

    detail: str = ""
    title: str = ""
    reason: str = ""


class TokenFile:
    """A projected ServiceAccount token, read again when the file changes."""

    def __init__(self, path: str) -> None:
        """Read nothing yet."""
        self._path = Path(path)
        self._seen: tuple[int, int] | None = None
        self._token = ""

    def token(self) -> str:
        """Return the token as it stands in the file now."""
        try:
            stat = self._path.stat()
            if (stat.st_mtime_ns, stat.st_ino) != self._seen:
                self._token = self._path.read_text(encoding="ascii").strip()
                self._seen = (stat.st_mtime_ns, stat.st_ino)
        except (OSError, UnicodeDecodeError) as error:
            why = f"the gateway token cannot be read from {self._path}: {type(error).__name__}"
            raise Unavailable(why, Reason.UNAUTHENTICATED) from None
        return self._token


class GatewayClient:
    """The port `Gateway` over HTTP; one for a worker's whole life."""

    def __init__(
        self,
        url: str,
        *,
        token_file: str,
        revision: str,
        observe: Observe | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """Connect on the first call; `observe` is told of each: name, outcome, seconds."""
        self._token = TokenFile(token_file)
        self._observe = observe
        self._encode = msgspec.json.Encoder().encode
        self._client = httpx2.AsyncClient(
            base_url=url.rstrip("/"),
            headers={REVISION_HEADER: revision, "Accept": "application/json"},
            timeout=httpx2.Timeout(_CALL_SECONDS, connect=3.0),
            verify=_tls(url),
            trust_env=False,
            transport=transport,
        )

    async def program(self) -> wire.Program:
        """Return what this worker executes."""
        return await self._ask("GET", wire.PROGRAM_PATH, None, wire.Program)

    async def queue(self) -> wire.QueueLease:
        """Return how to reach this worker's queue."""
        return await self._ask("POST", wire.QUEUE_PATH, None, wire.QueueLease)

    async def work(self, request: wire.WorkRequest) -> wire.WorkReply:
        """Hand in what is done and claim more."""
        return await self._ask("POST", wire.WORK_PATH, request, wire.WorkReply)

    async def heartbeat(self, request: wire.HeartbeatRequest) -> wire.HeartbeatReply:
        """Renew the leases of held runs."""
        return await self._ask("POST", wire.HEARTBEAT_PATH, request, wire.HeartbeatReply)

    async def watch(self) -> bool:
        """Wait a few seconds; True as soon as a run of the instance may have been cancelled."""
        return (await self._ask("POST", wire.WATCH_PATH, None, wire.WatchReply)).changed

    async def outputs(self, request: wire.OutputsRequest) -> wire.OutputsReply:
        """Return outputs that were held back from an assignment."""
        return await self._ask("POST", wire.OUTPUTS_PATH, request, wire.OutputsReply)

    async def child(self, request: wire.ChildRequest) -> wire.ChildReply:
        """Have a run of another instance, and wait a little for its end."""
        return await self._ask("POST", wire.CHILD_PATH, request, wire.ChildReply)

    async def lease(self, slot: str) -> wire.CredentialLease:
        """Return the credential bound to a slot."""
        return await self._ask("POST", wire.LEASE_PATH, wire.LeaseRequest(slot=slot), wire.CredentialLease)

    async def hold(self, request: wire.HoldRequest) -> wire.HoldReply:
        """Hold the credential bound to a slot for all who use it."""
        return await self._ask("POST", wire.HOLD_PATH, request, wire.HoldReply)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, method: str, path: str, message: wire.Message | None, reply: type[Reply]) -> Reply:
        content = None if message is None else self._encode(message)
        attempts = stamina.retry_context(
            on=Unavailable,
            attempts=4,
            timeout=_RETRY_SECONDS,
            wait_initial=0.05,
            wait_max=1.0,
            wait_jitter=0.2,
        )
        async for attempt in attempts:
            with attempt:
                return await self._once(method, path, content, reply)
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    async def _once(self, method: str, path: str, content: bytes | None, reply: type[Reply]) -> Reply:
        began = time.monotonic()
        outcome: Literal["ok", "failed"] = "failed"
        try:
            body = await self._send(method, path, content)
            outcome = "ok"
            return msgspec.json.decode(body, type=reply)
        except msgspec.DecodeError as error:
            raise Unavailable(f"the gateway's answer to {path} cannot be read: {error}") from None
        finally:
            if self._observe is not None:
                self._observe(path.rpartition("/")[2], outcome, time.monotonic() - began)

    async def _send(self, method: str, path: str, content: bytes | None) -> bytes:
        headers = {"Authorization": f"Bearer {self._token.token()}"}
        # What is asked for a run bears the id that the run's own log lines bear; `work` is for many.
        if (asked_by := structlog.contextvars.get_contextvars().get("request_id")) is not None:
            headers["X-Request-Id"] = asked_by
        if content is not None:
            headers["Content-Type"] = "application/json"
        try:
            response = await self._client.request(method, path, content=content, headers=headers)
        except httpx2.HTTPError as error:
            said = f"the gateway cannot be reached: {type(error).__name__}"
            raise Unavailable(said, Reason.RECORD_UNAVAILABLE) from None
        if response.status_code != httpx2.codes.OK:
            raise _refusal(path, response)
        return response.content


def _refusal(path: str, response: httpx2.Response) -> EveresthoodError:
    problem = _problem(response)
    said = problem.detail or problem.title or f"the gateway answered {path} with {response.status_code}"
    reason = Reason(problem.reason) if problem.reason in Reason._value2member_map_ else None
    match response.status_code:
        case 401:
            return Unauthenticated(said, reason)
        case 403:
            return Forbidden(said, reason)
        case status if status in _TRANSIENT or reason is Reason.GATEWAY_IS_OLDER:
            return Unavailable(said, reason)
        case _:
            return Refused(said, reason)


def _problem(response: httpx2.Response) -> _Problem:
    try:
        return msgspec.json.decode(response.content[:65_536], type=_Problem)
    except msgspec.DecodeError:
        return _Problem()


def _tls(url: str) -> ssl.SSLContext:
    """Return a TLS context; without certificates where none are needed, for they cost megabytes."""
    if url.startswith("https:"):
        return httpx2.create_ssl_context(trust_env=False)
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
