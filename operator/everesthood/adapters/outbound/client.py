"""GuardedClient: one call of an agent, from a judged URL to a bounded answer.

No proxy, no cookie and no address of the environment takes part. Redirects are followed by hand,
each one judged as the first was. No text that it raises holds a credential, a body or a query.
"""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final
from urllib.parse import urljoin

import httpcore2
import httpx2

from everesthood.adapters.outbound.network import GuardedNetwork, Resolve, resolve
from everesthood.adapters.outbound.policy import Policy
from everesthood.apis.reasons import Reason
from everesthood.apis.wire import CredentialLease
from everesthood.domain.errors import OutcomeUnknown, StepFailed
from everesthood.domain.hosts import Endpoint
from everesthood.usecases.ports.worker import Answer, Call, Credentials

MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_CONNECT_SECONDS: Final = 10.0
_MOST_CONNECTIONS: Final = 500
_KEEP_SECONDS: Final = 4.0
"""Shorter than servers keep a quiet connection, so that none closes under a request."""
_OURS: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect"}
)
_PERSONAL: Final = frozenset({"authorization", "cookie", "proxy-authorization"})
_BEFORE_SENDING: Final = (httpcore2.ConnectError, httpcore2.ConnectTimeout, httpcore2.PoolTimeout)
_WHILE_SENDING: Final = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpx2.DecodingError,
)


class GuardedClient:
    """The port `Outbound`."""

    def __init__(
        self,
        policy: Policy,
        credentials: Credentials,
        *,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Open nothing yet; certificates are loaded for the first call."""
        self._policy = policy
        self._credentials = credentials
        self._network = GuardedNetwork(internal_hosts=policy.internal_hosts, resolve=resolve)
        self._tls = tls
        self._pool: httpcore2.AsyncConnectionPool | None = None

    async def send(self, call: Call) -> Answer:
        """Make the call, follow its redirects, and return the answer."""
        started = _Started()
        try:
            async with asyncio.timeout(call.timeout_seconds):
                return await self._follow(call, started)
        except TimeoutError:
            said = f"{call.method} {started.where} did not answer within {call.timeout_seconds:g} s"
            raise _broke_off(said, started, Reason.STEP_TIMED_OUT) from None
        except _BEFORE_SENDING as error:
            why = ": its certificate is not trusted" if "CERTIFICATE_VERIFY_FAILED" in str(error) else ""
            said = f"{call.method} {started.where} cannot be reached{why}"
            started.is_sent = started.is_answered
            raise _broke_off(said, started, Reason.STEP_FAILED) from None
        except _WHILE_SENDING as error:
            said = f"{call.method} {started.where} broke off ({type(error).__name__})"
            raise _broke_off(said, started, Reason.STEP_FAILED) from None

    async def aclose(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.aclose()

    async def _follow(self, call: Call, started: "_Started") -> Answer:
        hop = _Hop(call, self._policy.target(call.url))
        for _ in range(MAX_REDIRECTS + 1):
            started.where = hop.endpoint.shown
            answer = await self._exchange(hop, started)
            location = answer.headers.get("location")
            if not call.follow_redirects or answer.status not in _REDIRECTS or location is None:
                return answer
            hop = self._next_hop(hop, answer.status, location)
        said = f"{started.where} redirects more than {MAX_REDIRECTS} times"
        raise StepFailed(said, Reason.HOST_REFUSED)

    def _next_hop(self, hop: "_Hop", status: int, location: str) -> "_Hop":
        url = urljoin(hop.call.url, location)
        try:
            endpoint = self._policy.target(url)
        except StepFailed as error:
            said = f"{hop.endpoint.shown} redirects to where the agent may not go: {error.message}"
            raise StepFailed(said, error.reason) from None
        if hop.endpoint.scheme == "https" and endpoint.scheme == "http":
            said = f"{hop.endpoint.shown} redirects from https to http"
            raise StepFailed(said, Reason.HOST_REFUSED)
        return hop.redirected(status, url, endpoint)

    async def _exchange(self, hop: "_Hop", started: "_Started") -> Answer:
        request = _request(hop, await self._login(hop))
        started.is_sent = True
        answer = await self._connections().handle_async_request(request)
        started.is_answered = True
        headers = httpx2.Headers(answer.headers)
        stream = answer.stream
        assert isinstance(stream, AsyncIterable)  # noqa: S101 - narrows the type
        response = httpx2.Response(answer.status, headers=headers, stream=_Stream(stream))
        try:
            body = await _read(response, hop)
        finally:
            await answer.aclose()
        return Answer(status=answer.status, headers=dict(headers), body=body)

    async def _login(self, hop: "_Hop") -> list[tuple[bytes, bytes]]:
        slot = hop.call.credential
        if slot is None:
            return []
        # The slot's own hosts first: a value that may not be sent is not even asked for.
        own = self._policy.slots.get(slot, ())
        self._policy.check_credential(slot, hop.endpoint, own)
        lease = await self._credentials.lease(slot)
        self._policy.check_credential(slot, hop.endpoint, lease.hosts)
        return [_header(slot, lease)]

    def _connections(self) -> httpcore2.AsyncConnectionPool:
        if self._pool is None:
            self._pool = httpcore2.AsyncConnectionPool(
                ssl_context=self._tls or httpx2.create_ssl_context(trust_env=False),
                max_connections=_MOST_CONNECTIONS,
                max_keepalive_connections=20,
                keepalive_expiry=_KEEP_SECONDS,
                network_backend=self._network,
            )
        return self._pool


class _Started:
    """How far a call is."""

    def __init__(self) -> None:
        self.where = "the address"
        self.is_sent = False
        self.is_answered = False
        """By the first host at least; what a redirect leads to may then fail before anything is sent."""


class _Stream(httpx2.AsyncByteStream):
    """The body as it comes, for httpx2 to unpack."""

    def __init__(self, parts: AsyncIterable[bytes]) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._parts:
            yield part


class _Hop:
    """One request of a call."""

    def __init__(self, call: Call, endpoint: Endpoint) -> None:
        self.call = call
        self.endpoint = endpoint

    def redirected(self, status: int, url: str, endpoint: Endpoint) -> "_Hop":
        """Return the next request; what is personal stays with the host that it was meant for."""
        call = self.call
        same = endpoint == self.endpoint
        keeps_body = status in {307, 308} or call.method in {"GET", "HEAD"}
        headers = tuple(
            (name, value)
            for name, value in call.headers
            if (same or name.lower() not in _PERSONAL)
            and (keeps_body or not name.lower().startswith("content-"))
        )
        following = Call(
            method=call.method if keeps_body else "GET",
            url=url,
            headers=headers,
            content=call.content if keeps_body else None,
            credential=call.credential if same else None,
            max_bytes=call.max_bytes,
            timeout_seconds=call.timeout_seconds,
            is_enough=call.is_enough,
        )
        return _Hop(following, endpoint)


def _request(hop: _Hop, login: list[tuple[bytes, bytes]]) -> httpcore2.Request:
    call, endpoint = hop.call, hop.endpoint
    try:
        url = httpx2.URL(call.url)
    except httpx2.InvalidURL:
        raise StepFailed("the URL cannot be read", Reason.HOST_REFUSED) from None
    if (url.host, url.port or endpoint.port) != (endpoint.host.strip("[]"), endpoint.port):
        raise StepFailed("the URL can be read in two ways", Reason.HOST_REFUSED)
    headers = [(b"Host", url.netloc), (b"User-Agent", b"everesthood"), (b"Accept-Encoding", b"gzip, deflate")]
    headers += [_plain_header(name, value) for name, value in call.headers]
    if call.content is not None or call.method in {"POST", "PUT", "PATCH"}:
        headers.append((b"Content-Length", str(len(call.content or b"")).encode()))
    return httpcore2.Request(
        method=call.method,
        url=httpcore2.URL(
            scheme=endpoint.scheme, host=endpoint.host.strip("[]"), port=endpoint.port, target=url.raw_path
        ),
        headers=[*headers, *login],
        content=call.content or b"",
        extensions={"timeout": {"connect": _CONNECT_SECONDS, "pool": _CONNECT_SECONDS}},
    )


def _plain_header(name: str, value: str) -> tuple[bytes, bytes]:
    if name.lower() in _OURS:
        raise StepFailed(f"header {name} is set by Everesthood")
    if any(ord(c) < 32 and c != "\t" for c in value) or "\x7f" in value:  # noqa: PLR2004 - controls
        raise StepFailed(f"header {name} has a control character in its value")
    try:
        return name.encode("ascii"), value.encode("utf-8")
    except UnicodeEncodeError:
        raise StepFailed(f"header {name} cannot be written") from None


def _header(slot: str, lease: CredentialLease) -> tuple[bytes, bytes]:
    value = lease.value.strip()
    if not value or any(ord(c) < 32 or ord(c) == 127 for c in value):  # noqa: PLR2004 - controls
        said = f"credential slot {slot} holds a value that no header can carry"
        raise StepFailed(said, Reason.CREDENTIAL_NOT_READY)
    match lease.type:
        case "Bearer":
            return b"Authorization", b"Bearer " + value.encode()
        case "Basic":
            return b"Authorization", b"Basic " + base64.b64encode(value.encode())
        case "Header":
            return lease.header.encode(), value.encode()


async def _read(response: httpx2.Response, hop: _Hop) -> bytes:
    too_large = StepFailed(
        f"{hop.endpoint.shown} answers with more than {hop.call.max_bytes} bytes", Reason.OUTPUT_TOO_LARGE
    )
    announced = response.headers.get("content-length", "")
    if hop.call.method != "HEAD" and announced.isdigit() and int(announced[:19]) > hop.call.max_bytes:
        raise too_large
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > hop.call.max_bytes:
            raise too_large
        if hop.call.is_enough is not None and hop.call.is_enough(part):
            break
    return bytes(body)


def _broke_off(said: str, started: _Started, reason: Reason) -> StepFailed:
    """Return the failure of a call that may have arrived."""
    if not started.is_sent:
        return StepFailed(said, reason, transient=True)
    return OutcomeUnknown(said, transient=True)
