"""The workers' door over real PostgreSQL: what a worker gets, and what is refused with one sentence."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import httpx2
import msgspec
import pytest
from tests.support.record import (
    CREDENTIAL,
    INSTANCE,
    Harness,
    database_url,
    databases,
    finish,
    postgres_harness,
    seat,
    wish,
)

from everesthood import __version__
from everesthood.apis import wire
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Conflict, Forbidden, NotFound, Refused, Unauthenticated, Unavailable
from everesthood.domain.runs import RunState
from everesthood.entrypoints.gateway import metrics, problems
from everesthood.entrypoints.gateway.app import BODY_BYTES, Gateway
from everesthood.entrypoints.gateway.routes import Parts, routes
from everesthood.usecases.await_cancellation import await_cancellation
from everesthood.usecases.call_instance import CallInstance
from everesthood.usecases.lease_queue import Broker
from everesthood.usecases.leave import Leaving
from everesthood.usecases.ports.identity import Identity
from everesthood.usecases.ports.registry import PublishedRevision
from everesthood.usecases.seat_worker import SeatWorker

__all__ = ["database_url", "databases"]
pytestmark = pytest.mark.integration
SECRET = "sk-very-secret"
SPEC = {"credentials": [{"name": "model", "hosts": ["api.example.com"]}], "steps": []}


class Kubernetes:
    """Tokens `<uid>/<revision>/<pod>` of the published ServiceAccounts, and one Secret."""

    async def authenticate(self, token, _audiences):
        if token.count("/") != 2:
            raise Unauthenticated("The token is not valid.")
        uid, _, pod = token.split("/")
        account = {"uid-a": "agent-greeter", "uid-b": "agent-other"}[uid]
        extra = {
            "authentication.kubernetes.io/pod-name": (pod,),
            "authentication.kubernetes.io/pod-uid": (token,),
        }
        return Identity(username=f"system:serviceaccount:acme:{account}", extra=extra)

    async def seat(self, _namespace, pod, pod_uid):
        uid, revision, _ = pod_uid.split("/")
        if pod == "gone":
            raise Forbidden("There is no such pod.", Reason.NOT_YOURS)
        return uid, revision

    async def value(self, namespace, name, key):
        if (namespace, name, key) == ("acme", "model", "token"):
            return SECRET
        raise NotFound("There is no Secret.", Reason.SECRET_NOT_FOUND)


async def _no_run(wish):
    raise NotFound(f"There is no AgentInstance {wish.instance!r} in namespace {wish.namespace!r}.")


class Bell:
    """Remembers what was rung and settled."""

    def __init__(self):
        self.rung = []
        self.settled = []

    async def ring(self, instance_uid, revision):
        self.rung.append((instance_uid, revision))

    async def settle(self, instance_uid, revision):
        self.settled.append((instance_uid, revision))


@dataclass
class Door:
    """A worker's view of the gateway, with the record behind it."""

    http: httpx2.AsyncClient
    record: Harness
    bell: Bell
    leaving: Leaving

    async def send(self, path, message=None, *, token="uid-a/r1/pod-1", method="POST", **headers):
        body = message if isinstance(message, bytes) else msgspec.json.encode(message)
        sent = {"Authorization": f"Bearer {token}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        content = None if message is None else body
        return await self.http.request(method, path, content=content, headers=sent)

    async def work(self, **request) -> wire.WorkReply:
        answer = await self.send(wire.WORK_PATH, wire.WorkRequest(**request))
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=wire.WorkReply)


@pytest.fixture
async def door(database_url: str) -> AsyncIterator[Door]:
    kubernetes, bell = Kubernetes(), Bell()
    async with postgres_harness(database_url) as record:
        await record.registry.publish_instance(INSTANCE)
        await record.registry.publish_instance(
            replace(INSTANCE, uid="uid-b", name="other", service_account="agent-other", bindings={})
        )
        await record.registry.publish_revision(
            PublishedRevision(
                namespace="acme", digest="r1", template="greeting", spec=msgspec.json.encode(SPEC)
            )
        )
        await record.registry.publish_credential(CREDENTIAL)
        await record.clock.mark_queues(["uid-a"], [])
        leaving = Leaving(record.gateway, bell)
        parts = Parts(
            work=record.work,
            store=record.gateway,
            bell=bell,
            secrets=kubernetes,
            broker=Broker(host="redis", port=6379, tls=False, bell_key=b"k" * 32),
            cancellations=record.cancellations,
            call_instance=CallInstance(
                store=record.gateway, runs=record.runs, request_run=_no_run, wait_seconds=0.0
            ),
            leaving=leaving,
            internal_hosts=frozenset({"standin:8080"}),
        )
        seat = SeatWorker(identities=kubernetes, owners=kubernetes, store=record.gateway)
        transport = httpx2.ASGITransport(app=Gateway(seat=seat, routes=routes(parts)))
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as http:
            yield Door(http, record, bell, leaving)


async def test_a_worker_claims_and_hands_in(door: Door):
    """One call claims, the next hands in and claims again; people see the result."""
    accepted = await door.record.accept()

    claimed = (await door.work(want=5, settle_bell=True)).assignments
    reply = await door.work(want=5, finished=(finish(claimed[0], output=msgspec.Raw(b'{"text":"hi"}')),))

    run = await door.record.run(accepted.run)
    assert [held.run for held in claimed] == [accepted.run]
    assert json.loads(bytes(claimed[0].input)) == {"who": "World"}
    assert (reply.assignments, reply.lost) == ((), ())
    assert (run.state, run.output) == (RunState.SUCCEEDED, b'{"text":"hi"}')
    assert door.bell.settled == [("uid-a", "r1")]


async def test_a_worker_that_is_more_than_needed_leaves(door: Door):
    """It is woken, asked in the answer to its call, claims on while it only offers, and then no more."""
    await door.record.registry.ask_to_leave("uid-a", "r1", 1, drain=False)
    await door.leaving.refresh()
    asked = await door.work(want=1)
    await door.record.accept()
    busy = await door.work(want=1, holds=0)
    idle = await door.work(want=1, holds=0, finished=(finish(busy.assignments[0]),))
    await door.work(holds=0, leaves=True)

    assert door.bell.rung == [("uid-a", "r1")]
    assert [asked.leave, busy.leave, idle.leave] == ["offer", "offer", "yes"]
    assert (await door.record.registry.demand({"uid-a": 1}))["uid-a"]["r1"].left == ("pod-1",)


async def test_a_worker_learns_its_program_and_its_queue(door: Door):
    """What it executes and how it reaches its bell comes from the gateway alone."""
    program = await door.send(wire.PROGRAM_PATH, method="GET")
    queue = await door.send(wire.QUEUE_PATH)

    decoded = msgspec.json.decode(program.content, type=wire.Program)
    lease = msgspec.json.decode(queue.content, type=wire.QueueLease)
    assert json.loads(bytes(decoded.template)) == SPEC
    assert json.loads(bytes(decoded.config)) == {"tone": "dry"}
    assert decoded.slots == {"model": ["api.example.com"]}
    assert decoded.internal_hosts == ("standin:8080",)
    assert (lease.user, lease.queue) == ("agi-uid-a", "drain.r1")


async def test_a_queue_without_its_user_is_asked_for_again(door: Door):
    """The worker hears to come back in a second."""
    answer = await door.send(wire.QUEUE_PATH, token="uid-b/r1/pod-2")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["reason"] == "QueuePending"


async def test_a_credential_is_lent_and_never_stored_on_the_way(door: Door):
    """The answer says that nobody may keep it, and the audit log names who asked."""
    answer = await door.send(wire.LEASE_PATH, wire.LeaseRequest(slot="model"), X_Request_Id="req-7")

    lease = msgspec.json.decode(answer.content, type=wire.CredentialLease)
    assert (lease.type, lease.value, lease.hosts) == ("Bearer", SECRET, ("api.example.com",))
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"] == "req-7"
    assert ("worker/pod-1", "credential.lease", "agentcredential/model-key") in await door.record.audited()


async def test_a_provider_that_asks_to_wait_holds_the_credential(door: Door):
    """After the worker told of it, claims of the instance are denied until then; the counter says by which level."""
    await door.record.accept()
    before = metrics.DENIED.labels("credential")._value.get()

    answer = await door.send(wire.HOLD_PATH, wire.HoldRequest(slot="model", seconds=30))
    reply = await door.work(want=1)

    assert (answer.status_code, answer.json()) == (200, {"seconds": 30.0})
    assert (reply.assignments, reply.denied) == ((), "credential")
    assert reply.next_due_in == pytest.approx(30, abs=1)
    assert metrics.DENIED.labels("credential")._value.get() == before + 1


async def test_a_value_is_in_no_log(door: Door, caplog, capsys):
    """A lease leaves its trace without the value."""
    await door.send(wire.LEASE_PATH, wire.LeaseRequest(slot="model"))

    printed = capsys.readouterr()
    assert SECRET not in caplog.text + printed.out + printed.err


@pytest.mark.parametrize(
    ("call", "status", "reason"),
    [
        ({"token": "bad"}, 401, "Unauthenticated"),
        ({"token": ""}, 401, "Unauthenticated"),
        ({"Authorization": "Basic dXNlcjpwdw=="}, 401, "Unauthenticated"),
        ({"token": "uid-a/r1/gone"}, 403, "NotYours"),
        ({"X_Everesthood_Revision": "r2"}, 403, "NotYours"),
        ({"path": "/v1/nothing"}, 404, "BadRequest"),
        ({"method": "DELETE"}, 404, "BadRequest"),
        ({"message": b"{"}, 422, "BadRequest"),
        ({"message": b'{"wantt":1}'}, 422, "GatewayIsOlder"),
        ({"message": b'{"want":"many"}'}, 422, "BadRequest"),
        ({"message": b'{"want":-1}'}, 422, "BadRequest"),
        ({"message": b"[" * 200_000}, 422, "BadRequest"),
        ({"message": b"x" * (BODY_BYTES + 1)}, 413, "TooLarge"),
    ],
)
async def test_a_bad_call_is_refused_with_one_sentence(door: Door, call, status, reason):
    """Every refusal is a problem with a reason, a sentence and the request's id; nothing happens."""
    call = {"path": wire.WORK_PATH, "message": b"{}", **call}
    answer = await door.send(call.pop("path"), call.pop("message"), **call)

    problem = answer.json()
    assert (answer.status_code, problem["reason"], problem["status"]) == (status, reason, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["requestId"] == answer.headers["x-request-id"]
    assert problem["detail"].endswith(".")
    assert len(problem["detail"]) < 300


async def test_another_instances_worker_gets_nothing_of_ours(door: Door):
    """With a token of its own, knowing the run's id and fence, it changes and sees nothing."""
    await door.record.accept()
    (held,) = (await door.work(want=1)).assignments
    thief = {"token": "uid-b/r1/pod-2"}

    theft = await door.send(wire.WORK_PATH, wire.WorkRequest(want=5, finished=(finish(held),)), **thief)
    beat = await door.send(
        wire.HEARTBEAT_PATH,
        wire.HeartbeatRequest(held=(wire.Held(run=held.run, fence=held.fence),)),
        **thief,
    )
    lease = await door.send(wire.LEASE_PATH, wire.LeaseRequest(slot="model"), **thief)

    assert theft.json() == {"lost": [held.run]}
    assert beat.json() == {"lost": [held.run]}
    assert (lease.status_code, lease.json()["reason"]) == (404, "CredentialNotBound")
    assert (await door.record.run(held.run)).state is RunState.RUNNING


async def test_a_body_in_pieces_is_capped_too(door: Door):
    """A client that hides the length of its body gets no further."""

    async def pieces():
        for _ in range(9):
            yield b" " * 1024 * 1024

    headers = {"Authorization": "Bearer uid-a/r1/pod-1"}
    answer = await door.http.post(wire.WORK_PATH, content=pieces(), headers=headers)

    assert answer.status_code == 413


async def test_a_strange_request_id_is_replaced(door: Door):
    """An id that could break a log line is not taken over."""
    answer = await door.send(wire.HEARTBEAT_PATH, b'{"held":[]}', X_Request_Id="a b\tc")

    assert answer.status_code == 200
    assert answer.headers["x-request-id"] != "a b\tc"


async def test_an_id_of_the_request_reaches_the_worker(door: Door):
    """One id from the accepted request to the worker that executes it."""
    await door.record.runs.accept(wish(request_id="req-42"))

    (held,) = (await door.work(want=1)).assignments

    assert held.request_id == "req-42"


async def test_a_worker_is_told_of_a_cancellation_while_it_waits(door: Door):
    """The call answers as soon as a run of the worker's instance is cancelled, and after a while anyway."""
    accepted = await door.record.accept()
    await door.work(want=1)
    hints = door.record.cancellations
    while (await await_cancellation(hints, seat(uid="uid-b"), 0.2)).changed:
        pass  # a connection that is new tells everybody
    watching = asyncio.create_task(door.send(wire.WATCH_PATH))
    other = asyncio.create_task(door.send(wire.WATCH_PATH, token="uid-b/r1/pod-2"))
    done, _ = await asyncio.wait({watching, other}, timeout=0.3)

    await door.record.runs.cancel("acme", accepted.run, "bob", "r")

    async with asyncio.timeout(3):
        answer = await watching
    assert done == set()
    assert msgspec.json.decode(answer.content, type=wire.WatchReply) == wire.WatchReply(changed=True)
    assert not other.done()
    other.cancel()
    await asyncio.wait({other})


async def test_a_newer_workers_words_are_refused_in_one_sentence(door: Door):
    """During an upgrade a worker may be newer than a gateway: which field, which version, and what to do."""
    request = {"finished": [{"run": "r", "fence": 1, "outcome": "succeeded", "colour": "red"}]}
    answer = await door.send(wire.WORK_PATH, json.dumps(request).encode())

    assert (answer.status_code, answer.json()["reason"]) == (422, "GatewayIsOlder")
    assert answer.json()["detail"] == (
        f"This gateway, version {__version__}, does not know the field 'colour': the worker is newer."
        " It is taken once the gateway is upgraded."
    )


async def test_a_gateway_that_ends_lets_go_of_who_only_waits(door: Door):
    """A call that waits is answered at once, and so is one that comes before the door is closed."""
    hints = door.record.cancellations
    while (await await_cancellation(hints, seat(), 0.2)).changed:
        pass  # a connection that is new tells everybody
    watching = asyncio.create_task(await_cancellation(hints, seat(), 60))
    done, _ = await asyncio.wait({watching}, timeout=0.2)

    hints.release()

    async with asyncio.timeout(3):
        assert (await watching, await await_cancellation(hints, seat(), 60)) == (
            wire.WatchReply(changed=True),
        ) * 2
    assert done == set()


async def test_a_worker_fetches_outputs_that_its_claim_left_behind(door: Door):
    """Large outputs of earlier attempts come by a call of their own; another instance gets none of them."""
    await door.record.accept()
    (held,) = (await door.work(want=1)).assignments
    large = msgspec.Raw(b'"' + b"x" * 200_000 + b'"')
    step = wire.StepRecord(name="a", state="succeeded", output=large)
    await door.work(checkpoints=(wire.Checkpoint(run=held.run, fence=held.fence, steps=(step,)),))
    await door.work(finished=(finish(held, "released"),))
    (again,) = (await door.work(want=1)).assignments
    request = wire.OutputsRequest(run=again.run, fence=again.fence, steps=("a",))

    mine = await door.send(wire.OUTPUTS_PATH, request)
    other = await door.send(wire.OUTPUTS_PATH, request, token="uid-b/r1/pod-2")

    assert again.steps[0].is_held_back
    reply = msgspec.json.decode(mine.content, type=wire.OutputsReply)
    assert [bytes(found.output) for found in reply.outputs] == [bytes(large)]
    assert (other.status_code, other.json()["reason"]) == (409, Reason.LEASE_LOST)


async def test_a_worker_has_no_run_of_an_instance_that_its_template_does_not_name(door: Door):
    """Whatever a worker asks for, the published template decides."""
    await door.record.accept()
    (held,) = (await door.work(want=1)).assignments
    request = wire.ChildRequest(
        run=held.run, fence=held.fence, step="a/turn1/call1", instance="other", input=wire.EMPTY, seconds=10
    )

    answer = await door.send(wire.CHILD_PATH, request)

    assert (answer.status_code, answer.json()["reason"]) == (403, Reason.NOT_YOURS)
    assert "has no tool that runs instance" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("error", "status"), [(Refused("no"), 400), (Conflict("no"), 409), (Unavailable("no"), 503)]
)
def test_only_what_may_pass_is_worth_another_try(error, status):
    """A worker repeats what failed on our side: no refusal may look as if it had."""
    assert problems.status_of(error) == status
