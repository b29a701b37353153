"""The command line's way to the REST API: one client, with refusals as sentences."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import quote

import httpx2

from everesthood.apis import names
from everesthood.entrypoints.cli.exits import Code, Stopped
from everesthood.entrypoints.cli.kubectl import Kubectl

_TIMEOUT: Final = httpx2.Timeout(20.0, read=60.0)
_AGAIN_SECONDS: Final = 1.0
_TRIES: Final = 10
_SERVICE: Final = "everesthood-web"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How the API is reached, as options and environment say."""

    server: str = ""
    token: str = ""
    kubectl: Kubectl = field(default_factory=Kubectl)
    system_namespace: str = "everesthood-system"


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event; a heartbeat has no name."""

    name: str
    data: dict[str, Any]


class Api:
    """Calls for one namespace. Opens what it needs at the first call, closes it at the end."""

    def __init__(self, connection: Connection, namespace: str = "") -> None:
        """Keep how to connect; an empty namespace means the kubeconfig's."""
        self._connection = connection
        self._stack = ExitStack()
        self._client: httpx2.Client | None = None
        self._namespace = namespace

    def __enter__(self) -> Self:
        """Do nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the client and the forwarding."""
        self._stack.close()

    @property
    def namespace(self) -> str:
        """Return the namespace that calls are for."""
        if not self._namespace:
            self._namespace = self._connection.kubectl.namespace()
        return self._namespace

    @property
    def address(self) -> str:
        """Return where the API is."""
        return str(self._opened().base_url)

    def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Return the answer, or stop with what the API says."""
        kind = {"Content-Type": "application/json"} if body is not None else {}
        with _reaching():
            answer = self._opened().request(
                method,
                self._path(path),
                content=body,
                params={key: value for key, value in (query or {}).items() if value not in (None, "", [])},
                headers={**kind, **(headers or {})},
            )
        return _understood(answer)

    def public(self, path: str) -> dict[str, Any]:
        """Return the answer of a route that needs no permission."""
        with _reaching():
            return _understood(self._opened().get(path))

    def manifest(self, name: str) -> dict[str, Any] | None:
        """Return the AgentInstance as Kubernetes has it, None where it has none.

        An address that was given may be another cluster's than the kubeconfig's, or no cluster's at all.
        """
        if self._connection.server:
            how = f"`kubectl describe agi {name} -n {self.namespace}` shows them, given its kubeconfig"
            raise Stopped(f"not asked for, since the API's address was given; {how}", Code.UNREACHABLE)
        return self._connection.kubectl.instance(name, self.namespace)

    def follow(
        self, run: str, *, instance: str = "", sleep: Callable[[float], None] = time.sleep
    ) -> Iterator[Event]:
        """Yield events of a run until it is over; a lost connection is taken up where it broke."""
        last, tries = "", 0
        while True:
            try:
                with _reaching():
                    for last_id, event in self._events(run, instance, last):
                        last, tries = last_id or last, 0
                        yield event
                        if event.name == "run" and is_over(event.data):
                            return
            except Stopped as stopped:
                if stopped.code is not Code.UNREACHABLE or tries >= _TRIES:
                    raise
            tries += 1
            if tries > _TRIES:
                raise Stopped("The API keeps ending the stream.", Code.UNREACHABLE)
            self._reopen()
            sleep(min(_AGAIN_SECONDS * tries, 5.0))

    def _events(self, run: str, instance: str, last: str) -> Iterator[tuple[str, Event]]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
        path = self._path(f"runs/{quote(run, safe='')}/log")
        query = {"follow": "true", **({"instance": instance} if instance else {})}
        with self._opened().stream("GET", path, params=query, headers=headers) as answer:
            if answer.status_code != httpx2.codes.OK:
                answer.read()
                _understood(answer)
            yield from parse_events(answer.iter_lines())

    def _opened(self) -> httpx2.Client:
        if self._client is None:
            kubectl = self._connection.kubectl
            # First, since a wrong context shows here and needs no forwarding.
            token = self._connection.token or kubectl.token(self.namespace)
            address = self._connection.server.rstrip("/") or self._stack.enter_context(
                kubectl.forward(self._connection.system_namespace, _SERVICE)
            )
            client = httpx2.Client(
                base_url=address,
                headers={"Authorization": f"Bearer {token}"},
                timeout=_TIMEOUT,
            )
            self._client = self._stack.enter_context(client)
        return self._client

    def _reopen(self) -> None:
        self._stack.close()
        self._stack, self._client = ExitStack(), None

    def _path(self, path: str) -> str:
        return f"{names.API_PREFIX}/namespaces/{self.namespace}/{path}"


def is_over(run: Mapping[str, Any]) -> bool:
    """Return whether the run is in a final state."""
    return run["state"] not in {"queued", "running", "waiting"}


def parse_events(lines: Iterator[str]) -> Iterator[tuple[str, Event]]:
    """Yield (id, event) from the lines of a stream; comments come out as events without a name."""
    parts: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            yield "", Event("", {})
        elif line:
            name, _, value = line.partition(":")
            parts[name] = value.removeprefix(" ")
        elif parts:
            yield from _event(parts)
            parts = {}


def _event(parts: Mapping[str, str]) -> Iterator[tuple[str, Event]]:
    data = json.loads(parts.get("data", "{}"))
    if parts.get("event") == "error":
        raise _refusal(data["status"], data)
    yield parts.get("id", ""), Event(parts.get("event", ""), data)


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Stopped(
            f"The API cannot be reached: {error or type(error).__name__}.", Code.UNREACHABLE
        ) from error


def _understood(answer: httpx2.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        what = f"{answer.request.url.host} answered {answer.status_code} with something that is not its API"
        raise Stopped(f"{what}.", Code.UNREACHABLE)
    if answer.is_success:
        return body
    raise _refusal(answer.status_code, body)


def _refusal(status: int, body: Mapping[str, Any]) -> Stopped:
    reason = body.get("reason", "")
    lines = [str(body.get("detail") or f"the API answered {status}")]
    lines += [f"  {one['pointer'] or '/'}: {one['detail']}" for one in body.get("problems") or ()]
    code = Code.UNREACHABLE if status >= 500 else Code.REFUSED  # noqa: PLR2004
    hint = f"{reason}, request {body.get('requestId', '-')}; `everesthood explain {reason}` says more."
    return Stopped("\n".join(lines), code, hint if reason else "", reason=reason)
