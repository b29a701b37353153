"""The one door to the API server: raw JSON over the official client's session.

Generated models are left out on purpose: they cost five times the call itself. Whoever needs a verb
that has no method here uses `request`.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration
from prometheus_client import Counter, Histogram

from everesthood.apis import names
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Unavailable
from everesthood.usecases.ports.cluster import ApiError

Json = dict[str, Any]

REQUESTS: Final = Counter(
    "everesthood_kubernetes_requests", "Calls to the API server by verb and status code.", ["verb", "code"]
)
REQUEST_SECONDS: Final = Histogram(
    "everesthood_kubernetes_request_seconds", "How long the API server took to answer.", ["verb"]
)

APPLY: Final = "application/apply-patch+yaml"
MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"

# The vendor ships no types for these.
_from_file: Final[Callable[..., Awaitable[object]]] = kube_config.load_kube_config
_from_pod: Final[Callable[..., None]] = kube_config.load_incluster_config

_TRIES: Final = 4
_WAIT_SECONDS: Final = 0.25
_LONGEST_WAIT_SECONDS: Final = 5.0
_CLIENT_ERROR: Final = 400
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500
_GATEWAY_ERRORS: Final = frozenset({500, 502, 503, 504})


async def connect(kubeconfig: str = "", *, connections: int = 32, timeout_seconds: float = 15.0) -> "Client":
    """Return a client for the kubeconfig file, or for the pod's own account when there is none."""
    settings = Configuration()
    try:
        if kubeconfig:
            await _from_file(config_file=kubeconfig, client_configuration=settings)
        else:
            _from_pod(settings)
    except kube_config.ConfigException as error:
        where = kubeconfig or "the pod's own account"
        raise Unavailable(f"cannot connect to Kubernetes with {where}: {error}") from error
    # The default looks up proxies and .netrc for every single request.
    settings.client_session_kwargs = {"trust_env": False}
    settings.connection_pool_maxsize = connections
    return Client(ApiClient(settings), timeout_seconds=timeout_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where and as whom to connect, for a library that brings its own client."""

    server: str
    ca_file: str | None
    verifies: bool
    token: str | None
    cert_file: str | None
    key_file: str | None


class Client:
    """Calls of one API server; retries what may be repeated, raises what may not."""

    def __init__(self, api: ApiClient, *, timeout_seconds: float = 15.0) -> None:
        """Wrap an API client; it is closed with this object."""
        self._api: Any = api
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)

    async def __aenter__(self) -> Self:
        """Do nothing: the session opens with the first call."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the session."""
        await self.close()

    async def close(self) -> None:
        """Close the session."""
        await self._api.close()

    async def connection(self) -> Connection:
        """Return where and as whom this client connects, with the token of this moment."""
        settings = self._api.configuration
        bearer = await settings.get_api_key_with_prefix("BearerToken", alias="authorization")
        return Connection(
            server=settings.host,
            ca_file=settings.ssl_ca_cert,
            verifies=settings.verify_ssl,
            token=bearer.split(" ", 1)[-1].strip() if bearer else None,
            cert_file=settings.cert_file,
            key_file=settings.key_file,
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: object = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Json:
        """Return the answer as a JSON object.

        Raises:
            ApiError: the API server refused.
            Unavailable: it cannot be reached, is overloaded or failed, also after some tries.
        """
        url = f"{self._api.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Content-Type": content_type, "Accept": accept, "User-Agent": "everesthood"}
        for tried in range(1, _TRIES + 1):
            try:
                return await self._once(method, url, dict(headers), body)
            except Unavailable as error:
                if tried == _TRIES or not _repeatable(method, error):
                    raise
                await asyncio.sleep(_pause(error, tried))
        raise AssertionError  # pragma: no cover - the loop above always ends by return or raise

    async def _once(self, method: str, url: str, headers: dict[str, str], body: object) -> Json:
        started = time.perf_counter()
        code = "error"
        try:
            await self._api.update_params_for_auth(headers, [], ["BearerToken"], url, method, body)
            answer = await self._api.call_api(
                method, url, header_params=headers, body=body, _request_timeout=self._timeout
            )
            data = await answer.read()
            code = str(answer.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(error) from error
        finally:
            REQUESTS.labels(method, code).inc()
            REQUEST_SECONDS.labels(method).observe(time.perf_counter() - started)
        if answer.status >= _CLIENT_ERROR:
            raise refusal(answer.status, data, answer.headers)
        return msgspec.json.decode(data) if data else {}

    async def get(self, path: str, *, query: Mapping[str, str | int] | None = None) -> Json:
        """Return one object."""
        return await self.request("GET", path, query=query)

    async def create(self, path: str, body: Json, *, manager: str = names.FIELD_MANAGER) -> Json:
        """Create an object or ask a question such as a TokenReview."""
        return await self.request("POST", path, body=body, query={"fieldManager": manager})

    async def apply(
        self, path: str, body: Json, *, manager: str = names.FIELD_MANAGER, force: bool = True
    ) -> Json:
        """Server-side apply: `body` is everything that the manager wants of the object."""
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return await self.request("PATCH", path, query=query, body=body, content_type=APPLY)

    async def apply_status(self, path: str, body: Json, *, manager: str = names.FIELD_MANAGER) -> Json:
        """Server-side apply of the status subresource."""
        return await self.apply(f"{path}/status", body, manager=manager)

    async def delete(self, path: str, *, uid: str) -> None:
        """Delete the object if it still is the one with that uid; gone already is well."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self.request("DELETE", path, body=body)
        except ApiError as error:
            if error.status not in {404, 409}:
                raise

    async def list_pages(
        self, path: str, *, label_selector: str = "", page: int = 500, metadata_only: bool = False
    ) -> AsyncIterator[tuple[list[Json], str]]:
        """Yield pages of a list with the resourceVersion of the whole."""
        query: dict[str, str | int] = {"limit": page}
        if label_selector:
            query["labelSelector"] = label_selector
        accept = METADATA_ONLY if metadata_only else "application/json"
        while True:
            answer = await self.request("GET", path, query=query, accept=accept)
            yield answer.get("items") or [], answer["metadata"]["resourceVersion"]
            more = answer["metadata"].get("continue")
            if not more:
                return
            query["continue"] = more


def object_path(api_version: str, plural: str, *, namespace: str = "", name: str = "") -> str:
    """Return the path of an object, or of a list of them when no name is given."""
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    place = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"{root}{place}/{plural}" + (f"/{quote(name, safe='')}" if name else "")


def refusal(status: int, data: bytes, headers: Mapping[str, str]) -> ApiError | Unavailable:
    """Return the error that an answer stands for."""
    answer = _status_object(data)
    message = str(answer.get("message") or f"the API server answered {status}")
    retry_after = _seconds(headers.get("Retry-After"))
    if status == _TOO_MANY or status in _GATEWAY_ERRORS:
        return _Throttled(message, retry_after_seconds=int(retry_after or 1), answered=status == _TOO_MANY)
    details = answer.get("details") or {}
    causes = tuple(
        f"{cause.get('field') or cause.get('reason') or ''}: {cause.get('message') or ''}"
        for cause in details.get("causes") or ()
    )
    return ApiError(message, status=status, kube_reason=str(answer.get("reason") or ""), causes=causes)


class _Throttled(Unavailable):
    """The API server is up but cannot serve; `answered` means that it certainly did nothing."""

    def __init__(self, message: str, *, retry_after_seconds: int, answered: bool) -> None:
        super().__init__(message, Reason.KUBERNETES_UNAVAILABLE, retry_after_seconds=retry_after_seconds)
        self.answered = answered


def _repeatable(method: str, error: Unavailable) -> bool:
    """Return whether doing it twice does no harm: a POST only when the first surely did nothing."""
    if method != "POST":
        return True
    return isinstance(error, _Throttled) and error.answered


def _pause(error: Unavailable, tried: int) -> float:
    wait = _WAIT_SECONDS * 2.0**tried
    if isinstance(error, _Throttled):
        wait = max(wait, float(error.retry_after_seconds))
    wait = min(wait, _LONGEST_WAIT_SECONDS)
    return wait * random.uniform(0.8, 1.2)  # noqa: S311 - jitter


def _unreachable(error: BaseException) -> Unavailable:
    return Unavailable(
        f"Kubernetes cannot be reached: {type(error).__name__}: {error}", Reason.KUBERNETES_UNAVAILABLE
    )


def _status_object(data: bytes) -> Json:
    try:
        answer = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return {"message": data[:200].decode(errors="replace")}
    return answer if isinstance(answer, dict) else {}


def _seconds(value: str | None) -> float | None:
    return float(value) if value and value.isdigit() else None
