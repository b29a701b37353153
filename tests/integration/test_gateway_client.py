"""The gateway client against a real HTTP server."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import structlog
from tests.support.servers import Asked, Reply, Server, serving
from tests.support.worker import raw

from everesthood.adapters.gateway import GatewayClient
from everesthood.apis import wire
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import EveresthoodError, Forbidden, Refused, Unauthenticated, Unavailable

pytestmark = pytest.mark.integration

WORK = wire.WorkRequest(
    want=3,
    finished=(wire.Finish(run="r", fence=2, outcome="succeeded", output=raw({"a": [1]})),),
    settle_bell=True,
)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("token-1\n")
    return path


@pytest.fixture
async def gateway(server: Server, token: Path) -> AsyncIterator[GatewayClient]:
    client = GatewayClient(f"http://127.0.0.1:{server.port}/", token_file=str(token), revision="abc123")
    yield client
    await client.aclose()


def saying(value: object, status: int = 200) -> Reply:
    return Reply(status=status, headers={"Content-Type": "application/json"}, body=msgspec.json.encode(value))


async def test_work_is_handed_in_and_claimed_in_one_call(server: Server, gateway: GatewayClient) -> None:
    """The message arrives as the wire says, with the token and the revision; JSON is passed on unread."""
    given = wire.Assignment(
        run="q", fence=1, attempt=1, input=raw({"b": 2}), request_id="x", seconds_left=1.0, lease_seconds=30
    )
    server.replies[wire.WORK_PATH] = saying(wire.WorkReply(assignments=(given,), lost=("r",)))

    reply = await gateway.work(WORK)

    asked = server.asked[0]
    assert (asked.headers["authorization"], asked.headers["x-everesthood-revision"]) == (
        "Bearer token-1",
        "abc123",
    )
    assert msgspec.json.decode(asked.body, type=wire.WorkRequest).finished[0].output == raw({"a": [1]})
    assert reply.lost == ("r",)
    assert reply.assignments[0].input == raw({"b": 2})


async def test_what_is_asked_for_a_run_bears_its_request_id(server: Server, gateway: GatewayClient) -> None:
    """The gateway's log and audit lines can be found by the id that the run's first request had."""
    server.replies[wire.LEASE_PATH] = saying(wire.CredentialLease(type="Bearer", value="v"))
    with structlog.contextvars.bound_contextvars(request_id="req-7"):
        await gateway.lease("model")
    await gateway.lease("model")

    assert [asked.headers.get("x-request-id") for asked in server.asked] == ["req-7", None]


async def test_each_message_has_its_path(server: Server, gateway: GatewayClient) -> None:
    """Program, queue, heartbeat and lease are asked for where the gateway answers them."""
    program = wire.Program(
        instance_uid="u", namespace="n", instance="i", revision="abc123", template=raw({}), config=raw(None),
        slots={}, internal_hosts=(),
    )  # fmt: skip
    queue = wire.QueueLease(host="h", port=1, user="u", password="p", prefix="a:", queue="q")
    lease = wire.CredentialLease(type="Bearer", value="v")
    server.replies = {
        wire.PROGRAM_PATH: saying(program), wire.QUEUE_PATH: saying(queue), wire.LEASE_PATH: saying(lease),
        wire.HEARTBEAT_PATH: saying(wire.HeartbeatReply(cancel=("r",))),
    }  # fmt: skip

    beat = await gateway.heartbeat(wire.HeartbeatRequest(held=(wire.Held(run="r", fence=1),)))

    assert (await gateway.program()).revision == "abc123"
    assert (await gateway.queue()).password == "p"
    assert (await gateway.lease("key")).value == "v"
    assert beat.cancel == ("r",)
    assert msgspec.json.decode(server.asked[3].body) == {"slot": "key"}


async def test_a_replaced_token_is_used_at_once(server: Server, gateway: GatewayClient, token: Path) -> None:
    """The kubelet swaps the file by a link; the next call carries the new token."""
    server.replies[wire.WORK_PATH] = saying(wire.WorkReply())
    await gateway.work(WORK)
    fresh = token.with_name("fresh")
    fresh.write_text("token-2")
    os.replace(fresh, token)  # noqa: PTH105
    await gateway.work(WORK)

    assert [a.headers["authorization"] for a in server.asked] == ["Bearer token-1", "Bearer token-2"]


async def test_a_missing_token_is_said(server: Server, tmp_path: Path) -> None:
    """Without a token nothing is sent, and the file is named."""
    client = GatewayClient(f"http://127.0.0.1:{server.port}", token_file=str(tmp_path / "no"), revision="a")
    with pytest.raises(Unavailable, match="the gateway token cannot be read from"):
        await client.program()
    await client.aclose()

    assert server.asked == []


async def test_a_moments_failure_is_bridged(server: Server, gateway: GatewayClient) -> None:
    """503, 429 and a broken connection are followed by another try."""
    failures = [saying({}, 503), saying({}, 429), Reply(hang_up=True)]

    def answer(_: Asked) -> Reply:
        return failures.pop(0) if failures else saying(wire.WorkReply(lost=("r",)))

    server.replies[wire.WORK_PATH] = answer

    assert (await gateway.work(WORK)).lost == ("r",)
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Unauthenticated), (403, Forbidden), (404, Refused), (413, Refused), (422, Refused)],
)
async def test_a_refusal_is_final_and_keeps_its_words(
    server: Server, gateway: GatewayClient, status: int, kind: type[EveresthoodError]
) -> None:
    """What the gateway refuses is not repeated; its reason and sentence reach the worker."""
    server.replies[wire.WORK_PATH] = saying({"reason": "NotYours", "detail": "another's run"}, status)

    with pytest.raises(kind) as refused:
        await gateway.work(WORK)

    assert (refused.value.reason, refused.value.message) == (Reason.NOT_YOURS, "another's run")
    assert len(server.asked) == 1


async def test_what_is_no_problem_document_is_understood_too(server: Server, gateway: GatewayClient) -> None:
    """A proxy's page in place of an answer makes a sentence, not a crash."""
    server.replies[wire.WORK_PATH] = Reply(status=400, body=b"<html>")
    with pytest.raises(Refused, match="the gateway answered /v1/work with 400"):
        await gateway.work(WORK)


async def test_an_answer_that_cannot_be_read_is_not_believed(server: Server, gateway: GatewayClient) -> None:
    """200 with something else inside counts as a gateway that cannot be asked."""
    server.replies[wire.PROGRAM_PATH] = Reply(body=b"<html>")
    with pytest.raises(Unavailable, match="cannot be read"):
        await gateway.program()


async def test_a_newer_gateways_answer_is_read(server: Server, gateway: GatewayClient) -> None:
    """Images of workers live long: what they do not know in an answer they pass over, however deep it is."""
    step = {"name": "a", "state": "succeeded", "output": 1, "colour": "red"}
    given = {
        "run": "q", "fence": 1, "attempt": 2, "input": {"b": 2}, "request_id": "x", "seconds_left": 1.0,
        "lease_seconds": 30, "steps": [step], "weight": 3,
    }  # fmt: skip
    server.replies[wire.WORK_PATH] = saying({"assignments": [given], "mood": {"is": "good"}})

    (assignment,) = (await gateway.work(WORK)).assignments

    assert (assignment.run, assignment.steps) == (
        "q",
        (wire.KeptStep(name="a", state="succeeded", output=raw(1)),),
    )


def _replies() -> list[type]:
    """Return what the gateway says, with all that is in it."""
    found = [wire.Answer]
    for kind in found:
        found += kind.__subclasses__()
    return found[1:]


@pytest.mark.parametrize("kind", _replies())
def test_no_answer_holds_what_refuses_the_unknown(kind: type) -> None:
    """Neither an answer nor a struct within one is stricter than the workers that read it can afford."""
    inner = [
        one
        for field in msgspec.structs.fields(kind)
        for one in (field.type, *get_args(field.type))
        if isinstance(one, type) and issubclass(one, msgspec.Struct)
    ]

    assert [one for one in (kind, *inner) if one.__struct_config__.forbid_unknown_fields] == []


async def test_what_an_older_gateway_does_not_know_is_handed_in_later(
    server: Server, gateway: GatewayClient
) -> None:
    """It counts as a gateway that cannot be asked for now, so that no result is given up during an upgrade."""
    said = {"reason": "GatewayIsOlder", "detail": "This gateway does not know it."}
    server.replies[wire.WORK_PATH] = saying(said, 422)

    with pytest.raises(Unavailable, match="This gateway does not know it."):
        await gateway.work(WORK)


async def test_a_gateway_that_is_gone_is_unavailable(token: Path) -> None:
    """Nobody listens: said within seconds, so that the worker can decide."""
    seen: list[tuple[str, str]] = []
    client = GatewayClient(
        "http://127.0.0.1:1",
        token_file=str(token),
        revision="a",
        observe=lambda call, outcome, _: seen.append((call, outcome)),
    )
    with pytest.raises(Unavailable, match="cannot be reached"):
        await client.work(WORK)
    await client.aclose()

    assert set(seen) == {("work", "failed")}
