"""The log of a run: page by page, or followed."""

import re
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from everesthood.apis import names
from everesthood.domain.runs import Run
from everesthood.entrypoints.web import schemas
from everesthood.entrypoints.web.guard import Call, guard
from everesthood.entrypoints.web.operations import RunPath, answered, declare, problems
from everesthood.entrypoints.web.streams import MEDIA_TYPE as EVENTS
from everesthood.usecases.follow_run import follow_run
from everesthood.usecases.get_run import find_run, get_log

router = APIRouter(prefix=names.API_PREFIX, tags=["runs"])
operation = partial(declare, router)


class LogQuery(BaseModel):
    """Which part of a log is wanted, and how."""

    follow: Annotated[bool, Field(description="Stream events until the run is over.")] = False
    after: Annotated[int, Field(ge=0, le=2**53, description="Only lines with a greater `seq`.")] = 0
    limit: Annotated[int, Field(ge=1, le=1000, description="Lines per page.")] = 500


@operation(
    "GET",
    "/runs/{run}/log",
    "getRunLog",
    summary="Read or follow a run's log",
    response_model=schemas.LogPage,
    responses={**problems(404, 422), 200: {"content": {EVENTS: {"schema": {"type": "string"}}}}},
)
async def show_log(
    request: Request,
    run: RunPath,
    call: Annotated[Call, Depends(guard("getRunLog"))],
    wanted: Annotated[LogQuery, Query()],
    last_event_id: Annotated[
        str | None, Header(description="Id of the last event that you saw, to go on from there.")
    ] = None,
) -> Response:
    """Read a page of the log, or follow it as server-sent events (`follow`, or Accept: text/event-stream).

    Events: `line`, `step`, `run` (the last one shows a final state) and `error` (a problem; come back later).
    """
    found = await find_run(call.parts.runs, call.namespace, run, call.instance)
    if wanted.follow or EVENTS in request.headers.get("accept", ""):
        return _stream(call, found, _resume(last_event_id, wanted.after))
    lines = await get_log(call.parts.runs, found, after=wanted.after, limit=wanted.limit)
    following = lines[-1].seq if len(lines) == wanted.limit else None
    return answered({"items": [schemas.line_view(line) for line in lines], "next": following})


class _Follow(StreamingResponse):
    """A stream that holds one of the places for exactly as long as it is served."""

    def __init__(self, seat: AbstractContextManager[None], events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type=EVENTS, headers={"X-Accel-Buffering": "no"})
        self._seat = seat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._seat:  # full: raised before the answer's head, so that it is a 503
            await super().__call__(scope, receive, send)


def _stream(call: Call, run: Run, place: tuple[int, int]) -> Response:
    streams = call.parts.streams
    changes = follow_run(call.parts.runs, run, after=place[0], after_step=place[1])
    events = streams.events(changes, place=place, check=call.check, request_id=call.request_id)
    return _Follow(streams.seat(call.identity.username), events)


def _resume(last_event_id: str | None, after: int) -> tuple[int, int]:
    """Return the last line and the last change of a step that a follower has seen."""
    seen = re.fullmatch(r"([0-9]{1,15})-([0-9]{1,15})", last_event_id or "")
    return (int(seen[1]), int(seen[2])) if seen else (after, 0)
