"""A short way for the operations that come by the thousand: the same door and endpoint, no framework between.

What the framework does around a request costs more processor time than all that these operations do.
"""

from collections.abc import Mapping
from typing import Final

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from everesthood.domain.access import REQUIRED
from everesthood.domain.errors import EveresthoodError
from everesthood.entrypoints.web import guard, problems
from everesthood.entrypoints.web.protocol import WHOLE

OPERATIONS: Final = frozenset({"createRun", "createRuns"})
"""Their endpoints take the request, the call and the Idempotency-Key, and their paths name the instance."""


class _Request(Request):
    """A request whose headers are looked through once, not for each that is asked for."""

    @property
    def headers(self) -> Mapping[str, str]:  # type: ignore[override]
        """Return the first of each name, which is what the usual kind answers with as well."""
        if not hasattr(self, "_by_name"):
            pairs = reversed(self.scope["headers"])
            self._by_name = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
        return self._by_name


class Express:
    """Serves these operations; everything else goes the usual way."""

    def __init__(self, api: FastAPI) -> None:
        """Find the operations among the routes, so that nothing is declared twice."""
        self._api: Final = api
        self._routes: Final = tuple(
            route
            for route in api.router.routes
            if isinstance(route, APIRoute) and route.operation_id in OPERATIONS
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["method"] == "POST":
            for route in self._routes:
                if found := route.path_regex.match(scope["path"]):
                    await self._serve(route, found.groupdict(), scope, receive, send)
                    return
        await self._api(scope, receive, send)

    async def _serve(
        self, route: APIRoute, names: dict[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        scope["app"], scope["route"] = self._api, route
        request = _Request(scope, receive)
        try:
            need = REQUIRED[str(route.operation_id)]
            call = await guard.enter_as(request, need, names["namespace"], names["name"])
            answer = await route.endpoint(request, call, request.headers.get("idempotency-key"))
        except EveresthoodError as error:
            answer = await problems.ours(request, error)
        except Exception as error:
            await (await problems.defect(request, error))(scope, receive, send)
            raise
        # All answers of these operations are whole; what stands around knows how to send them.
        await send(
            {"type": WHOLE, "status": answer.status_code, "headers": answer.raw_headers, "body": answer.body}
        )
