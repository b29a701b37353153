"""What the REST API promises, over the memory twin and over a real PostgreSQL."""

import asyncio
import contextlib
import json

import msgspec
import pytest
from pydantic import TypeAdapter
from tests.support.postgres import Databases, postgres_url
from tests.support.web import EVERYTHING, REVISION, UIDS, Stores, publish, running_api, until

from everesthood.adapters.memory import MemoryControl, MemoryRegistry, MemoryRuns, MemoryWork, Record
from everesthood.adapters.postgres import (
    Database,
    Listener,
    PostgresControl,
    PostgresRegistry,
    PostgresRuns,
    PostgresWork,
)
from everesthood.apis import wire
from everesthood.domain.access import REQUIRED
from everesthood.domain.limits import Limits, Rate
from everesthood.entrypoints.web import control_schemas, schedule_schemas, schemas

pytestmark = pytest.mark.integration
NOWHERE = "019aaaaa-aaaa-7aaa-8aaa-aaaaaaaaaaaa"


@pytest.fixture(scope="module")
def databases():
    with postgres_url() as url:
        yield Databases(url)


@contextlib.asynccontextmanager
async def postgres_stores(databases):
    url = await databases.fresh()
    database = Database(lambda: url)
    listener = Listener(database)
    runs, work = PostgresRuns(database, listener), PostgresWork(database)
    try:
        yield Stores(
            runs=runs,
            work=work,
            registry=PostgresRegistry(database, listener),
            control=PostgresControl(database),
        )
    finally:
        await runs.close()
        await work.close()
        await listener.close()
        await database.close()


@pytest.fixture(params=["memory", "postgres"])
async def api(request):
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "memory":
            record = Record()
            stores = Stores(
                runs=MemoryRuns(record),
                work=MemoryWork(record),
                registry=MemoryRegistry(record),
                control=MemoryControl(record),
            )
        else:
            databases = request.getfixturevalue("databases")
            stores = await stack.enter_async_context(postgres_stores(databases))
        yield await stack.enter_async_context(running_api(stores, heartbeat_seconds=0.3))


def shaped(shape, response):
    """Return the body, which must be exactly what the OpenAPI document says."""
    TypeAdapter(shape).validate_json(response.content)
    return response.json()


def refused(response, status, reason):
    """Return the problem, which must be one as RFC 9457 wants it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = shaped(schemas.ProblemView, response)
    assert (body["status"], body["reason"]) == (status, reason)
    assert body["requestId"] == response.headers["x-request-id"]
    return body


async def test_an_accepted_run_is_there_and_rings_its_queue(api):
    """201 with a Location that shows the run, and the worker's bell rings."""
    answer = await api.start("hello", **{"X-Request-Id": "my.id-1"})

    assert answer.status_code == 201
    made = shaped(schemas.RunView, answer)
    assert (made["state"], made["input"], made["output"]) == ("queued", {"text": "hello"}, None)
    assert (made["requestedBy"], made["requestId"]) == ("ada", "my.id-1")
    shown = await api.client.get(answer.headers["location"])
    found = shaped(schemas.RunDetail, shown)
    assert (found["id"], found["requestId"], found["steps"]) == (made["id"], "my.id-1", [])
    assert api.bell.waiting[UIDS["acme", "summarizer"], REVISION] == 1


async def test_a_run_that_a_limit_keeps_back_says_so(api):
    """A due run is shown with the limit that it waits for, as long as it does."""
    made = (await api.start()).json()
    url = api.url(f"runs/{made['id']}")
    before = shaped(schemas.RunDetail, await api.client.get(url))
    hourly = Limits(rate=Rate(runs=1, period_seconds=3600))
    await publish(api.stores.registry, limits=hourly)
    await api.claim()
    waits = (await api.start("next")).json()

    after = shaped(schemas.RunDetail, await api.client.get(api.url(f"runs/{waits['id']}")))

    assert before["waitsFor"] == ""
    assert after["waitsFor"] == "the instance's limit of 1 start in 3600 s is reached"


async def test_thousands_of_steps_are_shown_page_by_page(api):
    """A run comes with its first hundred steps; the others, and large outputs, are asked for."""
    made = (await api.start()).json()
    held = await api.claim()
    outputs = {f"loop[{n}].inner": "x" * (20_000 if n == 700 else 10) for n in range(1200)}
    steps = tuple(
        wire.StepRecord(name=name, state="succeeded", output=msgspec.Raw(json.dumps(output).encode()))
        for name, output in outputs.items()
    )
    await api.worker(checkpoints=(wire.Checkpoint(run=held.run, fence=held.fence, steps=steps),))

    found = shaped(schemas.RunDetail, await api.client.get(api.url(f"runs/{made['id']}")))
    seen, following = list(found["steps"]), found["nextSteps"]
    while following is not None:
        params = {"after": following, "limit": 500}
        answer = await api.client.get(api.url(f"runs/{made['id']}/steps"), params=params)
        page = shaped(schemas.StepPage, answer)
        seen += page["items"]
        following = page["next"]

    assert len(found["steps"]) == 100
    assert [step["name"] for step in seen] == list(outputs)
    assert [step["name"] for step in seen if step["output"] is None] == ["loop[700].inner"]
    assert seen[700]["outputBytes"] == 20_002
    large = await api.client.get(api.url(f"runs/{made['id']}/steps/loop%5B700%5D.inner/output"))
    assert large.json() == outputs["loop[700].inner"]
    refused(await api.client.get(api.url(f"runs/{made['id']}/steps/a/b/output")), 404, "RunNotFound")


async def test_a_step_that_changes_comes_again_behind_the_others(api):
    """A reader who asks for what is behind its place sees every change."""
    made = (await api.start()).json()
    held = await api.claim()

    async def write(name, state):
        step = wire.StepRecord(name=name, state=state)
        await api.worker(checkpoints=(wire.Checkpoint(run=held.run, fence=held.fence, steps=(step,)),))

    await write("pay", "started")
    await write("look", "succeeded")
    url = api.url(f"runs/{made['id']}/steps")
    first = (await api.client.get(url)).json()["items"]
    await write("pay", "succeeded")
    again = (await api.client.get(url, params={"after": first[-1]["seq"]})).json()["items"]

    assert [(step["name"], step["state"]) for step in first] == [("pay", "started"), ("look", "succeeded")]
    assert [(step["name"], step["state"]) for step in again] == [("pay", "succeeded")]


async def test_a_finished_run_shows_its_steps_and_output(api):
    """What the worker wrote is what a person reads."""
    made = (await api.start()).json()
    await api.finish(await api.claim())

    found = shaped(schemas.RunDetail, await api.client.get(api.url(f"runs/{made['id']}")))
    assert (found["state"], found["output"], found["revision"], found["attempt"]) == (
        "succeeded", "HELLO", REVISION, 1,
    )  # fmt: skip
    assert [(s["name"], s["state"], s["output"]) for s in found["steps"]] == [("shout", "succeeded", "HELLO")]


async def test_a_repeat_with_the_same_key_is_the_same_run(api):
    """A client that lost the answer asks again and gets the first run, not a second one."""
    first = await api.start("one", **{"Idempotency-Key": "k"})
    again = await api.start("one", **{"Idempotency-Key": "k"})

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    refused(await api.start("two", **{"Idempotency-Key": "k"}), 409, "IdempotencyConflict")
    assert len((await api.client.get(api.url("runs"))).json()["items"]) == 1


async def test_runs_are_listed_newest_first_in_pages(api):
    """Each run is on exactly one page."""
    made = [(await api.start(str(n))).json()["id"] for n in range(5)]
    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = shaped(schemas.RunPage, await api.client.get(api.url("runs"), params=query))
        seen += [run["id"] for run in page["items"]]
        cursor, pages = page["next"], pages + 1

    assert sorted(seen, reverse=True) == seen
    assert sorted(seen) == sorted(made)


async def test_a_list_can_be_narrowed(api):
    """By instance and by state; a page says nothing of inputs and outputs."""
    await api.start("done")
    await api.finish(await api.claim())
    await api.start("waits")

    async def count(**query):
        return len((await api.client.get(api.url("runs"), params=query)).json()["items"])

    assert await count() == 2
    assert await count(state="queued") == 1
    assert await count(state=["queued", "succeeded"]) == 2
    assert await count(instance="summarizer") == 2
    assert await count(instance="other") == 0


async def test_a_waiting_run_is_cancelled_at_once_and_a_running_one_told(api):
    """Cancelling twice is well; cancelling what is over is a conflict."""
    waiting = (await api.start()).json()["id"]
    path = api.url(f"runs/{waiting}/cancel")
    for _ in range(2):
        assert shaped(schemas.RunView, await api.client.post(path))["state"] == "cancelled"
    running = (await api.start()).json()["id"]
    held = await api.claim()
    now = (await api.client.post(api.url(f"runs/{running}/cancel"))).json()
    assert (now["state"], now["cancelRequested"]) == ("running", True)
    await api.finish(held)

    refused(await api.client.post(api.url(f"runs/{running}/cancel")), 409, "RunFinished")


async def test_the_log_is_read_in_pages(api):
    """Every line once, in order."""
    run = (await api.start()).json()["id"]
    held = await api.claim()
    await api.log(held, *(f"line {n}" for n in range(5)))
    seen, after = [], 0
    while after is not None:
        page = shaped(
            schemas.LogPage,
            await api.client.get(api.url(f"runs/{run}/log"), params={"after": after, "limit": 2}),
        )
        seen += [line["message"] for line in page["items"]]
        after = page["next"]

    assert seen == [f"line {n}" for n in range(5)]


def events(text):
    """Return (id, event, data) of a stream's text."""
    blocks = [
        dict(line.split(": ", 1) for line in b.splitlines())
        for b in text.split("\n\n")
        if b[:1] not in {":", ""}
    ]
    return [(b["id"], b["event"], json.loads(b["data"])) for b in blocks]


async def follow(api, run, **headers):
    text = ""
    url = api.url(f"runs/{run}/log")
    async with api.client.stream("GET", url, headers={"Accept": "text/event-stream", **headers}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for chunk in answer.aiter_text():
            text += chunk
    return text


async def test_a_run_is_followed_to_its_end(api):
    """Lines, steps and states come as they happen; the stream ends with the final state."""
    run = (await api.start()).json()["id"]
    following = asyncio.create_task(follow(api, run))
    held = await api.claim()
    await api.log(held, "one", "two")
    await asyncio.sleep(0.7)  # long enough for heartbeats, which is what this looks for
    await api.finish(held)
    async with asyncio.timeout(10):
        text = await following

    found = events(text)
    assert [data["message"] for _, event, data in found if event == "line"] == ["one", "two"]
    assert [data["name"] for _, event, data in found if event == "step"] == ["shout"]
    states = [data["state"] for _, event, data in found if event == "run"]
    assert states[-1] == "succeeded"
    assert states == sorted(set(states), key=["queued", "running", "succeeded"].index)
    assert found[-1][1] == "run"
    assert ": still here" in text
    for _, event, data in found:
        TypeAdapter(
            {"line": schemas.LineView, "step": schemas.StepView, "run": schemas.RunView}[event]
        ).validate_json(json.dumps(data))


async def test_a_lost_stream_goes_on_where_it_broke(api):
    """With Last-Event-ID no line is missed and none comes twice."""
    run = (await api.start()).json()["id"]
    held = await api.claim()
    await api.log(held, "one", "two", "three")
    await api.finish(held)
    whole = events(await follow(api, run))
    second = next(id_ for id_, event, data in whole if event == "line" and data["message"] == "two")

    rest = events(await follow(api, run, **{"Last-Event-ID": second}))
    assert [data["message"] for _, event, data in rest if event == "line"] == ["three"]
    assert [data["name"] for _, event, data in rest if event == "step"] == ["shout"]
    assert rest[-1][2]["state"] == "succeeded"

    last = events(await follow(api, run, **{"Last-Event-ID": whole[-1][0]}))
    assert [event for _, event, _ in last] == ["run"]


async def test_a_line_break_in_a_log_cannot_forge_an_event(api):
    """Whatever a run logs stays inside of its line."""
    run = (await api.start()).json()["id"]
    held = await api.claim()
    evil = 'x\n\nevent: run\ndata: {"state":"succeeded"}\n\n\r\u2028\x85\u2029y'
    await api.log(held, evil)
    await api.finish(held, output={"a": "b\nevent: c"})

    assert [event for _, event, _ in events(await follow(api, run))] == ["line", "step", "run"]


async def test_a_withdrawn_permission_ends_a_stream(api, monkeypatch):
    """Who may no longer read a log does not go on reading it."""
    monkeypatch.setattr("everesthood.usecases.authorize.ALLOWED_SECONDS", 0.0)
    run = (await api.start()).json()["id"]
    following = asyncio.create_task(follow(api, run))
    await asyncio.sleep(0.1)  # until it follows
    api.kubernetes.grants.clear()
    async with asyncio.timeout(10):
        text = await following

    assert events(text)[-1][1] == "error"
    assert events(text)[-1][2]["reason"] == "Forbidden"


async def test_too_many_followers_are_told_to_come_back(api):
    """A full house is a 503 with Retry-After, and a place is free again when somebody leaves."""
    api.streams.most_per_user = 1
    run = (await api.start()).json()["id"]
    url = api.url(f"runs/{run}/log")
    query = {"follow": "true"}
    async with api.client.stream("GET", url, params=query) as first:
        assert first.status_code == 200
        second = await api.client.get(url, params=query)
        refused(second, 503, "TooBusy")
        assert int(second.headers["retry-after"]) > 0
    await api.client.post(api.url(f"runs/{run}/cancel"))
    async with asyncio.timeout(10):
        while (await api.client.get(url, params=query)).status_code != 200:
            await asyncio.sleep(0.02)


INVALID_INPUTS = [
    ({"input": {}}, "/input", "InputInvalid"),
    ({"input": {"text": 1}}, "/input/text", "InputInvalid"),
    ({"input": {"text": "x", "other": 1}}, "/input", "InputInvalid"),
    ({"input": {"text": "x" * 270_000}}, "/input", "InputInvalid"),
    ({"inptu": {}}, "", "BadRequest"),
    ([], "", "BadRequest"),
    (b"{", "", "BadRequest"),
    (b"\xff\xfe", "", "BadRequest"),
    (b'{"input": {"text": "\xff"}}', "/input", "InputInvalid"),
    (b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "", "BadRequest"),
    (b'{"input": NaN}', "", "BadRequest"),
]


@pytest.mark.parametrize(("body", "pointer", "reason"), INVALID_INPUTS)
async def test_a_bad_input_is_refused_with_its_place(api, body, pointer, reason):
    """422, a JSON pointer to the fault, and no run."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await api.client.post(
        api.url("instances/summarizer/runs"), content=raw, headers={"Content-Type": "application/json"}
    )

    said = refused(answer, 422, reason)
    assert said["problems"][0]["pointer"] == pointer, said
    assert (await api.client.get(api.url("runs"))).json()["items"] == []


async def test_an_input_that_the_record_cannot_hold_is_refused(api):
    """A zero character is valid JSON and invalid in PostgreSQL: 422 or accepted whole, never a 500."""
    answer = await api.start("a\0b")

    assert answer.status_code in {201, 422}
    if answer.status_code == 201:
        assert answer.json()["input"] == {"text": "a\0b"}


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_cap_is_refused(api, chunked):
    """413 for more than 1 MiB, whether or not the length is declared."""

    async def chunks():
        for _ in range(20):
            yield b"x" * 100_000

    content = chunks() if chunked else b"x" * 2_000_000
    answer = await api.client.post(
        api.url("instances/summarizer/runs"), content=content, headers={"Content-Type": "application/json"}
    )

    refused(answer, 413, "TooLarge")


@pytest.mark.parametrize("declared", [False, True])
async def test_an_input_of_50_mb_is_refused_without_being_read(api, declared):
    """What is far too large is refused before it has come, at the head or at the cap, and others are served."""
    size = b"Content-Length: 50000000" if declared else b"Transfer-Encoding: chunked"
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ada-token\r\nContent-Type: application/json\r\n%s\r\n\r\n"
    host, port = api.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head % (api.url("instances/summarizer/runs").encode(), size))
    if not declared:
        writer.write(11 * (b"%x\r\n" % 100_000 + b"x" * 100_000 + b"\r\n"))  # of 500 that there would be
    async with asyncio.timeout(10):
        status = await reader.readline()
        answer = await reader.readuntil(b"}")
    small = await api.start("beside it")
    writer.close()

    assert status.startswith(b"HTTP/1.1 413 ")
    assert b'"reason":"TooLarge"' in answer
    assert small.status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
async def test_only_plain_json_is_read(api, headers):
    """A form of a foreign site and a packed bomb are refused unread."""
    answer = await api.client.post(api.url("instances/summarizer/runs"), content=b"{}", headers=headers)

    refused(answer, 415, "BadRequest")


@pytest.mark.parametrize(
    ("path", "query", "status", "reason"),
    [
        ("runs/nonsense", {}, 404, "RunNotFound"),
        (f"runs/{NOWHERE}", {}, 404, "RunNotFound"),
        (f"runs/{NOWHERE}/log", {}, 404, "RunNotFound"),
        (f"runs/{NOWHERE}/log", {"follow": "true"}, 404, "RunNotFound"),
        ("runs", {"limit": "1000000000"}, 422, "BadRequest"),
        ("runs", {"limit": "0"}, 422, "BadRequest"),
        ("runs", {"cursor": "x"}, 422, "BadRequest"),
        ("runs", {"cursor": "'; drop table run; --"}, 422, "BadRequest"),
        ("runs", {"state": "sleeping"}, 422, "BadRequest"),
        (f"runs/{NOWHERE}/log", {"after": "-1"}, 422, "BadRequest"),
        ("nothing", {}, 404, "BadRequest"),
    ],
)
async def test_a_wrong_read_is_one_clear_problem(api, path, query, status, reason):
    """Each wrong path or parameter has its status and says what is wrong."""
    refused(await api.client.get(api.url(path), params=query), status, reason)


async def test_instances_that_cannot_run_are_told_apart(api):
    """No such instance is 404; one that never had a good revision is 409 with the next command."""
    missing = await api.client.post(api.url("instances/none/runs"), json={"input": {"text": "x"}})
    young = await api.client.post(api.url("instances/young/runs"), json={"input": {"text": "x"}})

    refused(missing, 404, "InstanceNotFound")
    assert "kubectl describe agi young" in refused(young, 409, "InstanceNotReady")["detail"]


@pytest.mark.parametrize("key", ["", "x" * 256, "with space"])
async def test_a_key_that_is_none_is_refused(api, key):
    """An Idempotency-Key is 1 to 255 visible ASCII characters."""
    refused(await api.start("x", **{"Idempotency-Key": key}), 422, "BadRequest")


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "${jndi}", "<script>"])
async def test_a_strange_request_id_is_replaced(api, given):
    """Nothing that a log or a page could trip over is taken over from the client."""
    answer = await api.client.get(api.url("runs"), headers={"X-Request-Id": given})

    assert answer.headers["x-request-id"] != given
    assert len(answer.headers["x-request-id"]) == 36


ROUTES = [
    ("POST", "instances/summarizer/runs", "createRun"),
    ("POST", "instances/summarizer/runs/bulk", "createRuns"),
    ("GET", "runs", "listRuns"),
    ("GET", "runs/{run}", "getRun"),
    ("POST", "runs/{run}/cancel", "cancelRun"),
    ("GET", "runs/{run}/log", "getRunLog"),
    ("GET", "runs/{run}/steps", "listSteps"),
    ("GET", "runs/{run}/steps/shout/output", "getStepOutput"),
    ("GET", "instances/summarizer/schedules", "listSchedules"),
    ("POST", "instances/summarizer/schedules/daily/run", "runSchedule"),
    ("POST", "runs/{run}/replay", "replayRun"),
    ("POST", "runs/replay", "replayRuns"),
    ("POST", "runs/{run}/steps/ask/approval", "decideApproval"),
    ("POST", "runs/{run}/resolve", "resolveRun"),
    ("GET", "queues", "listQueues"),
    ("GET", "instances/summarizer/queue", "getQueue"),
    ("POST", "instances/summarizer/queue/pause", "pauseQueue"),
    ("POST", "instances/summarizer/queue/resume", "resumeQueue"),
    ("POST", "stop", "stopOrganization"),
    ("POST", "start", "startOrganization"),
]
BODIES = {
    "createRun": {"input": {"text": "x"}},
    "createRuns": {"runs": [{"input": {"text": "x"}}]},
    "resolveRun": {"outcome": "repeat"},
}
OF_ALL = {"stopOrganization", "startOrganization"}
"""Operations on a whole namespace, which no role for one instance opens."""
ALSO = {"replayRun": ("get runs",), "replayRuns": ("list runs",)}
"""What an operation needs beside its own permission, since it does what another one does too."""


def test_the_matrix_below_has_every_operation():
    """A new operation must be put to the same trials."""
    assert {operation for _, _, operation in ROUTES} == set(REQUIRED)


@pytest.mark.parametrize("route", ROUTES, ids=[operation for _, _, operation in ROUTES])
class TestEveryOperation:
    """Each operation against each caller."""

    async def call(self, api, route, *, namespace="acme", run=NOWHERE, **options):
        method, path, operation = route
        body = {"json": BODIES[operation]} if operation in BODIES else {}
        return await api.client.request(method, api.url(path.format(run=run), namespace), **body, **options)

    async def test_it_needs_a_token(self, api, route):
        """Without a valid token: 401, nothing asked of RBAC, whatever other headers claim."""
        api.client.headers.pop("authorization")
        for headers in (
            {},
            {"Authorization": "Basic YTpi"},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer wrong"},
            {"X-Remote-User": "ada", "X-User-Id": "ada", "X-Forwarded-User": "ada"},
        ):
            answer = await self.call(api, route, headers=headers, params={"user_id": "ada"})
            refused(answer, 401, "Unauthenticated")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        assert api.kubernetes.calls["subjectaccessreviews"] == 0

    async def test_it_needs_exactly_its_permission(self, api, route):
        """All other permissions together do not open it; its own alone does."""
        need = REQUIRED[route[2]]
        own = f"{need.verb} {need.subresource}"
        api.kubernetes.know("bob-token", "bob", "everesthood-web")
        api.kubernetes.know("eve-token", "eve", "everesthood-web")
        api.kubernetes.grant("bob", "acme", *(set(EVERYTHING) - {own}))
        api.kubernetes.grant("eve", "acme", own, *ALSO.get(route[2], ()))

        bob = await self.call(api, route, headers={"Authorization": "Bearer bob-token"})
        eve = await self.call(api, route, headers={"Authorization": "Bearer eve-token"})

        refused(bob, 403, "Forbidden")
        assert eve.status_code in {200, 201, 404}

    async def test_it_tells_nothing_of_another_organisation(self, api, route):
        """Ada, who has every right in acme, sees the same 403 in globex for what exists and what does not."""
        made = (await api.start()).json()["id"]
        api.kubernetes.know("gus-token", "gus", "everesthood-web")
        api.kubernetes.grant("gus", "globex", *EVERYTHING)
        strangers = {"headers": {"Authorization": "Bearer gus-token"}}

        there = await self.call(api, route, run=made, **strangers)
        nowhere = await self.call(api, route, run=NOWHERE, **strangers)
        assert refused(there, 403, "Forbidden")["detail"] == refused(nowhere, 403, "Forbidden")["detail"]
        if "{run}" in route[1]:
            # In the own namespace, an id of elsewhere is an id of nowhere.
            own = await self.call(api, route, run=made, namespace="globex", **strangers)
            assert made in refused(own, 404, "RunNotFound")["detail"]

    async def test_it_can_be_allowed_for_one_instance(self, api, route):
        """A role with resourceNames opens that instance alone; its runs are asked for with ?instance=."""
        need = REQUIRED[route[2]]
        made = (await api.start()).json()["id"]
        api.kubernetes.know("bob-token", "bob", "everesthood-web")
        needs = (f"{need.verb} {need.subresource}", *ALSO.get(route[2], ()))
        api.kubernetes.grant("bob", "acme", *needs, name="summarizer")
        bob = {"headers": {"Authorization": "Bearer bob-token"}}

        named = await self.call(api, route, run=made, params={"instance": "summarizer"}, **bob)
        if route[2] in OF_ALL:
            refused(named, 403, "Forbidden")
            return
        if route[2] == "decideApproval":
            refused(named, 404, "ApprovalNotFound")  # let in: the run that is there asks nothing
        else:
            # Let in: the run that is there is not over, and has no step yet.
            assert named.status_code in {200, 201, 409} or "no step" in named.text
        other = (route[0], route[1].replace("summarizer", "young"), route[2])
        refused(
            await self.call(api, other, run=made, params={"instance": "young"}, **bob),
            403,
            "Forbidden",
        )
        if not route[1].startswith("instances"):
            refused(await self.call(api, route, run=made, **bob), 403, "Forbidden")

    async def test_it_answers_with_safe_headers(self, api, route):
        """Nothing is cached, sniffed or framed, and no other origin is let in."""
        answer = await self.call(api, route, headers={"Origin": "https://evil.example"})

        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers

    async def test_it_says_when_kubernetes_is_down(self, api, route):
        """503 with Retry-After, and nothing accepted."""
        api.kubernetes.down = True
        answer = await self.call(api, route)
        refused(answer, 503, "KubernetesUnavailable")
        assert int(answer.headers["retry-after"]) > 0
        api.kubernetes.down = False

        assert (await api.client.get(api.url("runs"))).json()["items"] == []

    async def test_strange_names_are_refused_at_the_door(self, api, route):
        """A namespace that cannot be one is 403, and RBAC is not bothered with it."""
        for namespace in ("a" * 64, "UPPER", "a%00b", "a%0ab"):
            refused(await self.call(api, route, namespace=namespace), 403, "Forbidden")


async def test_schedules_are_listed_with_their_times(api):
    """What the spec says, the next and the last time, and whether it fires; inputs are not shown."""
    listed = await api.client.get(api.url("instances/summarizer/schedules"))
    young = await api.client.get(api.url("instances/young/schedules"))

    (found,) = shaped(schedule_schemas.ScheduleList, listed)["items"]
    assert (found["name"], found["cron"], found["timeZone"]) == ("daily", "0 6 * * *", "Europe/Berlin")
    assert (found["suspended"], found["lastFireAt"], found["jitterSeconds"]) == (False, None, 30)
    assert found["nextFireAt"].endswith((":00:00Z", ":00:00+00:00"))
    assert "input" not in found
    assert [item["suspended"] for item in young.json()["items"]] == [True]
    refused(await api.client.get(api.url("instances/nobody/schedules")), 404, "InstanceNotFound")


async def test_a_schedule_can_be_run_now(api):
    """The run has the schedule's input, says who asked for it, and is repeated under one key."""
    path = api.url("instances/summarizer/schedules/daily/run")
    first = await api.client.post(path, headers={"Idempotency-Key": "now"})
    again = await api.client.post(path, headers={"Idempotency-Key": "now"})

    made = shaped(schemas.RunView, first)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == made["id"]
    assert (made["schedule"], made["fireAt"], made["requestedBy"]) == ("daily", None, "ada")
    assert made["input"] == {"text": "of the schedule"}
    shown = shaped(schemas.RunDetail, await api.client.get(first.headers["location"]))
    assert shown["schedule"] == "daily"
    assert api.bell.waiting.total() == 1
    missing = await api.client.post(api.url("instances/summarizer/schedules/weekly/run"))
    refused(missing, 404, "ScheduleNotFound")
    clash = await api.client.post(
        api.url("instances/summarizer/runs"),
        json={"input": made["input"]},
        headers={"Idempotency-Key": "now"},
    )
    refused(clash, 409, "IdempotencyConflict")


async def test_the_run_of_another_instance_is_not_there(api):
    """?instance= narrows: a run of another instance is 404."""
    made = (await api.start()).json()["id"]

    refused(await api.client.get(api.url(f"runs/{made}"), params={"instance": "young"}), 404, "RunNotFound")


async def test_the_documentation_is_open_and_self_contained(api):
    """Anybody may read what the API is, and the page loads nothing from elsewhere."""
    api.client.headers.pop("authorization")
    page = await api.client.get("/docs")
    document = await api.client.get("/openapi.json")

    assert page.status_code == document.status_code == 200
    assert "http://" not in page.text
    assert "https://" not in page.text
    for operation in REQUIRED:
        assert f'id="{operation}"' in page.text
    assert (await api.client.get("/docs/docs.js")).headers["content-type"].startswith("text/javascript")
    assert (await api.client.get("/docs/docs.css")).status_code == 200
    assert (await api.client.get("/docs/..%2fmain.py")).status_code == 404


async def test_a_down_record_accepts_nothing():
    """PostgreSQL away: 503 with Retry-After for every operation; when it is back, everything goes on."""
    record = Record()
    stores = Stores(
        runs=MemoryRuns(record),
        work=MemoryWork(record),
        registry=MemoryRegistry(record),
        control=MemoryControl(record),
    )
    async with running_api(stores) as api:
        record.down = True
        answer = await api.start()
        refused(answer, 503, "RecordUnavailable")
        assert int(answer.headers["retry-after"]) > 0
        refused(await api.client.get(api.url("runs")), 503, "RecordUnavailable")
        record.down = False

        assert (await api.client.get(api.url("runs"))).json()["items"] == []
        assert (await api.start()).status_code == 201


async def test_a_defect_is_a_problem_too(monkeypatch, caplog):
    """Even what nobody foresaw answers as problem+json, names its request, and quotes nothing."""
    record = Record()
    runs = MemoryRuns(record)

    async def broken(*_):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(runs, "list", broken)
    stores = Stores(
        runs=runs, work=MemoryWork(record), registry=MemoryRegistry(record), control=MemoryControl(record)
    )
    async with running_api(stores) as api:
        answer = await api.client.get(api.url("runs"))

    assert "secret detail" not in refused(answer, 500, "Internal")["detail"]


async def test_ids_are_no_labels_of_metrics(api):
    """Requests are counted by the pattern of their route."""
    from prometheus_client import generate_latest  # noqa: PLC0415

    made = (await api.start()).json()["id"]
    await api.client.get(api.url(f"runs/{made}"))
    await api.client.get("/made/up/path")
    await api.client.request("BREW", "/coffee")
    said = generate_latest().decode()

    assert 'route="/api/agent-marketplace/namespaces/{namespace}/runs/{run}"' in said
    assert made not in said
    assert "made/up" not in said
    assert "BREW" not in said


async def test_a_stopping_server_ends_streams_at_once():
    """A rolling update does not wait for those who follow a log."""
    record = Record()
    stores = Stores(
        runs=MemoryRuns(record),
        work=MemoryWork(record),
        registry=MemoryRegistry(record),
        control=MemoryControl(record),
    )
    async with asyncio.timeout(5), running_api(stores) as api:
        run = (await api.start()).json()["id"]
        following = asyncio.create_task(follow(api, run))
        await until(api.streams._open.total)
        api.streams.closing.set()
        await following

    assert not api.streams._open.total()


async def test_several_runs_are_requested_in_one_call(api):
    """Each of them is accepted or refused as if it had come alone, and a repeat under the same key starts none."""
    wishes = [{"input": {"text": "one"}}, {"input": {"no": 1}}, {"input": {"text": "two"}, "priority": 3}]
    key = {"Idempotency-Key": "morning"}
    path = api.url("instances/summarizer/runs/bulk")
    first, again = [await api.client.post(path, json={"runs": wishes}, headers=key) for _ in range(2)]
    found = shaped(schemas.RunTickets, first)
    repeat = shaped(schemas.RunTickets, again)

    assert (first.status_code, found["accepted"], found["refused"]) == (201, 2, 1)
    one, bad, two = found["items"]
    assert bad["reason"] == "InputInvalid"
    assert bad["detail"].startswith("The input does not match")
    assert [item.get("id") for item in repeat["items"]] == [one["id"], None, two["id"]]
    assert repeat["items"][0]["repeated"]
    listed = (await api.client.get(api.url("runs"))).json()["items"]
    assert {(run["id"], run["priority"]) for run in listed} == {(one["id"], 0), (two["id"], 3)}


@pytest.mark.parametrize("count", [0, 101])
async def test_a_call_for_no_run_or_too_many_is_refused(api, count):
    """The bound is said, with its place, and nothing is accepted."""
    wishes = [{"input": {"text": "x"}}] * count
    answer = await api.client.post(api.url("instances/summarizer/runs/bulk"), json={"runs": wishes})

    problem = refused(answer, 422, "BadRequest")
    assert problem["problems"][0]["pointer"] == "/runs"
    assert (await api.client.get(api.url("runs"))).json()["items"] == []


async def test_dead_runs_are_found_and_replayed(api):
    """One with an edited input, or all that a filter leaves; the dry run only counts."""
    for text in ("one", "two"):
        await api.start(text)
        await api.finish(await api.claim(), outcome="failed")
    listed = await api.client.get(api.url("runs"), params={"state": "dead", "reason": "StepFailed"})
    old = shaped(schemas.RunPage, listed)["items"]

    edited = {"input": {"text": "three"}}
    one = await api.client.post(api.url(f"runs/{old[0]['id']}/replay"), json=edited)
    dry = await api.client.post(api.url("runs/replay"), params={"dryRun": "true", "limit": 1})
    key = {"Idempotency-Key": "again"}
    every = [await api.client.post(api.url("runs/replay"), headers=key) for _ in range(2)]

    made = shaped(schemas.RunView, one)
    assert one.status_code == 201
    assert (made["replayOf"], made["input"]) == (old[0]["id"], {"text": "three"})
    counted = shaped(schemas.ReplayPage, dry)
    assert (counted["matched"], counted["replayed"]) == (1, 0)
    assert counted["next"] is not None
    assert [shaped(schemas.ReplayPage, answer)["replayed"] for answer in every] == [2, 2]
    runs = shaped(schemas.RunPage, await api.client.get(api.url("runs")))["items"]
    assert len(runs) == 5
    refused(await api.client.post(api.url(f"runs/{made['id']}/replay")), 409, "RunNotFinished")
    refused(await api.client.post(api.url("runs/replay"), params={"state": "succeeded"}), 422, "BadRequest")


async def test_a_replay_shows_an_input_and_so_needs_to_read(api):
    """Whoever may only start runs learns nothing of old ones by replaying them."""
    api.kubernetes.know("eve-token", "eve", "everesthood-web")
    api.kubernetes.grant("eve", "acme", "create run")
    await api.start("secret")
    held = await api.claim()
    await api.finish(held, outcome="failed")
    eve = {"Authorization": "Bearer eve-token"}

    for path in (f"runs/{held.run}/replay", "runs/replay"):
        refused(await api.client.post(api.url(path), headers=eve), 403, "Forbidden")


async def test_priority_expiry_and_labels_are_taken_and_checked(api):
    """What was said is shown; what breaks a rule is refused with its place."""
    url = api.url("instances/summarizer/runs")
    said = {"input": {"text": "x"}, "priority": 3, "ttlSeconds": 60, "labels": {"team": "sales"}}

    made = shaped(schemas.RunView, await api.client.post(url, json=said))
    body = refused(await api.client.post(url, json={**said, "priority": 10}), 422, "BadRequest")

    assert (made["priority"], made["labels"]) == (3, {"team": "sales"})
    assert made["expiresAt"] is not None
    assert [one["pointer"] for one in body["problems"]] == ["/priority"]
    refused(await api.client.post(url, json={**said, "labels": {"team": 1}}), 422, "BadRequest")


async def test_requests_with_one_dedupe_key_are_one_run(api):
    """201 for the first, 200 with the same run for the next; the rules of the modes are checked."""
    url = api.url("instances/summarizer/runs")
    said = {"input": {"text": "x"}, "dedupe": {"key": "order-1"}}

    first, second = [await api.client.post(url, json=said) for _ in range(2)]

    assert (first.status_code, second.status_code) == (201, 200)
    assert shaped(schemas.RunView, first)["id"] == shaped(schemas.RunView, second)["id"]
    for wrong in (
        {"key": ""},
        {"key": "k", "mode": "throttle"},
        {"key": "k", "seconds": 5},
        {"key": "k", "mode": "x"},
    ):
        refused(await api.client.post(url, json={**said, "dedupe": wrong}), 422, "BadRequest")


async def test_runs_are_searched(api):
    """Every filter of the query is one of the record, and a broken one is named."""
    url = api.url("instances/summarizer/runs")
    made = await api.client.post(url, json={"input": {"text": "Needle"}, "labels": {"team": "sales"}})
    await api.start("hay")
    mine = made.json()["id"]

    for query in (
        {"text": "needle"},
        {"label": "team=sales"},
        {
            "label": "team=sales",
            "template": "summarizer",
            "state": "queued",
            "createdFrom": "2026-01-01T00:00:00",
        },
    ):
        page = shaped(schemas.RunPage, await api.client.get(api.url("runs"), params=query))
        assert [run["id"] for run in page["items"]] == [mine]
        assert page["next"] is None
    for query in ({"revision": "x"}, {"createdTo": "2026-01-01T00:00:00Z"}, {"label": ["team=sales", "a=b"]}):
        page = shaped(schemas.RunPage, await api.client.get(api.url("runs"), params=query))
        assert page["items"] == []
    for query in (
        {"label": "team"},
        {"createdFrom": "0001-01-01T00:00:00Z"},
        {"createdFrom": "soon"},
        {"text": ""},
    ):
        refused(await api.client.get(api.url("runs"), params=query), 422, "BadRequest")


async def waiting(api, *steps, seconds=600, on_reject="Fail"):
    """Return the id of a run that asks a person in these steps."""
    await api.start()
    held = await api.claim()
    asks = tuple(
        wire.Ask(step=name, message=f"May {name}?", deadline_seconds=seconds, on_reject=on_reject)
        for name in steps or ("ask",)
    )
    end = wire.Finish(run=held.run, fence=held.fence, outcome="waiting", asks=asks, message="May it?")
    await api.worker(finished=(end,))
    return held.run


async def test_a_question_is_listed_and_answered(api):
    """Who may list runs sees what waits for whom; the answer lets the run go on and rings."""
    run = await waiting(api)

    listed = await api.client.get(api.url("runs"), params={"state": "waiting"})
    (found,) = shaped(schemas.RunPage, listed)["items"]
    api.bell.lose_everything()
    answer = await api.client.post(api.url(f"runs/{run}/steps/ask/approval"), json={"comment": "well"})
    shown = shaped(schemas.RunDetail, await api.client.get(api.url(f"runs/{run}")))

    (asked,) = found["approvals"]
    assert (found["id"], found["reason"]) == (run, "WaitsForApproval")
    assert (asked["step"], asked["message"]) == ("ask", "May ask?")
    assert asked["askedAt"] < asked["deadlineAt"]
    assert shaped(schemas.RunView, answer)["state"] == "queued"
    assert api.bell.waiting[UIDS["acme", "summarizer"], REVISION] == 1
    assert shown["approvals"] == []
    output = {k: v for k, v in shown["steps"][0]["output"].items() if k != "at"}
    assert output == {"approved": True, "by": "ada", "comment": "well"}


async def test_a_rejection_ends_the_run_with_its_reason(api):
    """The run is dead at once; a second answer is refused by name."""
    run = await waiting(api)
    path = api.url(f"runs/{run}/steps/ask/approval")

    answer = await api.client.post(path, json={"approved": False, "comment": "too dear"})
    again = await api.client.post(path, json={"approved": False})
    other = await api.client.post(path, json={"approved": True})

    found = shaped(schemas.RunView, answer)
    assert (found["state"], found["reason"]) == ("dead", "ApprovalRejected")
    assert found["message"] == "steps.ask: rejected by ada: too dear"
    assert again.status_code == 200
    assert "rejected by ada" in refused(other, 409, "AlreadyDecided")["detail"]


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("steps/ask/approval", {"approved": "yes"}, "/approved"),
        ("steps/ask/approval", {"comment": "x" * 1001}, "/comment"),
        ("resolve", {"outcome": "maybe"}, "/outcome"),
        ("resolve", {"outcome": "giveUp", "comment": "x" * 1001}, "/comment"),
    ],
)
async def test_a_bad_decision_is_refused_with_its_place(api, path, body, pointer):
    """Whoever wrote it learns which field is wrong; the run waits on."""
    run = await waiting(api)

    problem = (await api.client.post(api.url(f"runs/{run}/{path}"), json=body)).json()

    assert (problem["status"], problem["problems"][0]["pointer"]) == (422, pointer)
    assert (await api.client.get(api.url(f"runs/{run}"))).json()["state"] == "waiting"


async def test_an_ambiguous_run_is_resolved(api):
    """What a person found out becomes the step's output, and the run goes on."""
    await api.start()
    held = await api.claim()
    begun = wire.StepRecord(name="pay", state="started", started_at=1.0)
    await api.worker(
        finished=(wire.Finish(run=held.run, fence=held.fence, outcome="ambiguous", steps=(begun,)),)
    )
    wrong = {"outcome": "done", "step": "other"}
    refused(await api.client.post(api.url(f"runs/{held.run}/resolve"), json=wrong), 404, "StepNotInDoubt")

    said = {"outcome": "done", "output": {"id": 7}}
    answer = await api.client.post(api.url(f"runs/{held.run}/resolve"), json=said)
    late = await api.client.post(api.url(f"runs/{held.run}/resolve"), json=said)

    again = await api.claim()
    assert shaped(schemas.RunView, answer)["state"] == "queued"
    refused(late, 409, "RunNotAmbiguous")
    assert [(one.name, bytes(one.output)) for one in again.steps] == [("pay", b'{"id":7}')]


async def test_a_queue_is_paused_and_resumed(api):
    """While it is paused, runs are accepted and wait; three different stops are told apart."""
    paused = await api.client.post(api.url("instances/summarizer/queue/pause"))
    await api.start()
    claimed = (await api.worker(want=1)).assignments
    shown = shaped(control_schemas.QueueShape, await api.client.get(api.url("instances/summarizer/queue")))
    listed = shaped(control_schemas.QueueList, await api.client.get(api.url("queues")))
    api.bell.lose_everything()
    resumed = shaped(
        control_schemas.QueueShape, await api.client.post(api.url("instances/summarizer/queue/resume"))
    )

    assert shaped(control_schemas.QueueShape, paused)["paused"]["by"] == "ada"
    assert (claimed, shown["due"], shown["paused"]["by"]) == ((), 1, "ada")
    assert (shown["suspended"], shown["stopped"], listed["stopped"]) == (False, None, None)
    assert [(one["instance"], bool(one["paused"])) for one in listed["items"]] == [
        ("summarizer", True),
        ("young", False),
    ]
    assert resumed["paused"] is None
    assert api.bell.waiting[UIDS["acme", "summarizer"], REVISION] == 1
    refused(await api.client.post(api.url("instances/nobody/queue/pause")), 404, "InstanceNotFound")


async def test_an_organisation_is_stopped_and_started(api):
    """A stop refuses requests by name and cancels what runs; a start lets everything go on."""
    await api.start()
    held = await api.claim()
    await api.start()

    stop = await api.client.post(api.url("stop"), json={"message": "a leak"})
    refusal = await api.start()
    running = (await api.client.get(api.url(f"runs/{held.run}"))).json()
    queues = shaped(control_schemas.QueueList, await api.client.get(api.url("queues")))
    claimed = (await api.worker(want=1)).assignments
    api.bell.lose_everything()
    started = shaped(control_schemas.QueueList, await api.client.post(api.url("start")))

    found = shaped(control_schemas.StopView, stop)
    assert (found["by"], found["message"], found["runs"]) == ("ada", "a leak", "cancel")
    refused(refusal, 409, "OrganizationStopped")
    assert (running["cancelRequested"], running["reason"]) == (True, "OrganizationStopped")
    assert (queues["stopped"]["by"], claimed) == ("ada", ())
    assert started["stopped"] is None
    assert (await api.start()).status_code == 201
    assert api.bell.waiting[UIDS["acme", "summarizer"], REVISION] == 1


async def test_a_cancellation_may_give_more_or_less_grace(api):
    """The grace is bounded; a bad one cancels nothing."""
    run = (await api.start()).json()["id"]
    await api.claim()
    path = api.url(f"runs/{run}/cancel")

    refused(await api.client.post(path, params={"graceSeconds": 601}), 422, "BadRequest")
    before = (await api.client.get(api.url(f"runs/{run}"))).json()
    answer = await api.client.post(path, params={"graceSeconds": 60})

    assert before["cancelRequested"] is False
    assert answer.json()["cancelRequested"] is True


async def test_replayed_runs_are_told_from_others(api):
    """The dead run names its replay, and a filter leaves those that have none."""
    dead = []
    for _ in range(2):
        dead.append((await api.start()).json()["id"])
        await api.finish(await api.claim(), outcome="failed")
    made = (await api.client.post(api.url(f"runs/{dead[0]}/replay"))).json()["id"]

    shown = (await api.client.get(api.url(f"runs/{dead[0]}"))).json()
    left = await api.client.get(api.url("runs"), params={"state": "dead", "replayed": "false"})
    again = await api.client.post(api.url("runs/replay"), params={"replayed": "false"})

    assert shown["replayedBy"] == made
    assert [run["id"] for run in shaped(schemas.RunPage, left)["items"]] == [dead[1]]
    assert (again.json()["matched"], again.json()["replayed"]) == (1, 1)


async def test_a_refused_permission_is_to_be_audited(api):
    """Who, what and which object, with the request's id; for the accept of a run as for all others."""
    body = {"input": {"text": "x"}}
    answers = [
        await api.client.get(api.url("runs", "globex")),
        await api.client.post(api.url("instances/summarizer/runs", "globex"), json=body),
    ]

    assert [answer.status_code for answer in answers] == [403, 403]
    assert [(one["actor"], one["namespace"], one["target"]) for one in api.refused] == [
        ("ada", "globex", "list agentinstances/runs"),
        ("ada", "globex", "create agentinstances/summarizer/run"),
    ]
    assert [one["request_id"] for one in api.refused] == [a.headers["x-request-id"] for a in answers]
