"""`ctx.http`: HTTP calls of a code agent, through the same guarded client as `http` steps."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from everesthood.domain.errors import StepFailed

MAX_BYTES = 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call."""

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes | None
    credential: str | None
    max_bytes: int
    timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What came back; header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_success(self) -> bool:
        """Return whether the status is one of 200 to 299."""
        return 200 <= self.status < 300  # noqa: PLR2004

    @property
    def text(self) -> str:
        """Return the body as UTF-8 text; what is not becomes a replacement character."""
        return self.content.decode("utf-8", errors="replace")

    def json(self) -> Any:  # noqa: ANN401 - any JSON value
        """Return the body as a JSON value, or raise StepFailed."""
        try:
            return msgspec.json.decode(self.content)
        except msgspec.DecodeError:
            raise StepFailed("the answer is not JSON") from None

    def raise_for_status(self) -> "Response":
        """Return the response if it is a success, else raise StepFailed; 429 and 5xx may be retried."""
        if self.is_success:
            return self
        transient = self.status in {408, 425, 429} or self.status >= 500  # noqa: PLR2004
        raise StepFailed(f"the call was answered with {self.status}", transient=transient)


class Http:
    """HTTP calls. Hosts must be in the template's `spec.egress.hosts`."""

    def __init__(self, send: Callable[[Request], Awaitable[Response]]) -> None:
        """Send through this."""
        self._send = send

    async def request(  # noqa: PLR0913 - one keyword for each thing that a call can have
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        content: bytes | str | None = None,
        credential: str | None = None,
        max_bytes: int = MAX_BYTES,
        timeout_seconds: float = 60.0,
    ) -> Response:
        """Make a call and return the answer, whatever its status.

        `json` is sent as the body unless it is None; `credential` names the slot whose value is added,
        to its hosts only. Redirects are followed, as far as their hosts are allowed.

        Raises:
            StepFailed: refused by the guard, or not reachable.
            OutcomeUnknown: it broke off after it was sent.
        """
        given = {name.lower(): value for name, value in (headers or {}).items()}
        body = content.encode() if isinstance(content, str) else content
        if json is not None:
            body = msgspec.json.encode(json)
            given.setdefault("content-type", "application/json")
        return await self._send(
            Request(
                method=method.upper(),
                url=url,
                headers=given,
                content=body,
                credential=credential,
                max_bytes=max_bytes,
                timeout_seconds=timeout_seconds,
            )
        )

    async def get(self, url: str, **options: Any) -> Response:  # noqa: ANN401 - those of `request`
        """Make a GET call; options as in `request`."""
        return await self.request("GET", url, **options)

    async def post(self, url: str, **options: Any) -> Response:  # noqa: ANN401
        """Make a POST call; options as in `request`."""
        return await self.request("POST", url, **options)

    async def put(self, url: str, **options: Any) -> Response:  # noqa: ANN401
        """Make a PUT call; options as in `request`."""
        return await self.request("PUT", url, **options)

    async def patch(self, url: str, **options: Any) -> Response:  # noqa: ANN401
        """Make a PATCH call; options as in `request`."""
        return await self.request("PATCH", url, **options)

    async def delete(self, url: str, **options: Any) -> Response:  # noqa: ANN401
        """Make a DELETE call; options as in `request`."""
        return await self.request("DELETE", url, **options)
