"""Who is let in at the gateway, and who is not."""

import asyncio
from dataclasses import replace

import pytest

from everesthood.adapters.memory import MemoryGateway, MemoryRegistry, Record
from everesthood.apis.names import GATEWAY_AUDIENCE
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Forbidden, Unauthenticated, Unavailable
from everesthood.usecases.ports.identity import Identity
from everesthood.usecases.ports.record import WorkerSeat
from everesthood.usecases.ports.registry import PublishedInstance
from everesthood.usecases.seat_worker import SeatWorker

INSTANCE = PublishedInstance(
    uid="uid-a",
    namespace="acme",
    name="greeter",
    generation=1,
    template="greeting",
    service_account="agent-greeter",
    current_revision="r1",
    config=b"{}",
)
POD = {
    "authentication.kubernetes.io/pod-name": ("pod-1",),
    "authentication.kubernetes.io/pod-uid": ("pod-uid",),
}
WORKER = Identity(username="system:serviceaccount:acme:agent-greeter", extra=POD)


class Kubernetes:
    """Knows one token and one pod; counts the questions."""

    def __init__(self):
        self.identity = WORKER
        self.seat_of_pod = ("uid-a", "r1")
        self.asked = 0
        self.error = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def authenticate(self, token, audiences):
        self.asked += 1
        await self.answers.wait()
        assert audiences == (GATEWAY_AUDIENCE,)
        if self.error:
            raise self.error
        if token != "good":
            raise Unauthenticated("no")
        return self.identity

    async def seat(self, namespace, pod, pod_uid):
        assert (namespace, pod, pod_uid) == ("acme", "pod-1", "pod-uid")
        return self.seat_of_pod


class Case:
    def __init__(self):
        self.kubernetes, self.time, self.record = Kubernetes(), 0.0, Record()
        self.seat = SeatWorker(
            identities=self.kubernetes,
            owners=self.kubernetes,
            store=MemoryGateway(self.record),
            now=lambda: self.time,
        )


async def settled(case):
    """Let questions that nobody waits for be answered."""
    await asyncio.gather(*case.seat._asking.values())


@pytest.fixture
async def case():
    case = Case()
    await MemoryRegistry(case.record).publish_instance(INSTANCE)
    return case


async def test_a_worker_is_seated_by_its_token_and_pod(case):
    """The seat says which instance and revision the pod works for."""
    assert await case.seat("good", "r1") == WorkerSeat(
        instance_uid="uid-a", namespace="acme", instance="greeter", revision="r1", pod="pod-1"
    )


@pytest.mark.parametrize("token", ["", "bad"])
async def test_a_token_that_is_none_gets_nowhere(case, token):
    """Without a valid token nobody is anybody."""
    with pytest.raises(Unauthenticated):
        await case.seat(token)


@pytest.mark.parametrize(
    "identity",
    [
        replace(WORKER, username="alice", extra={}),
        replace(WORKER, username="system:serviceaccount:acme"),
        replace(WORKER, username="system:serviceaccount:acme:default"),
        replace(WORKER, extra={}),
        replace(WORKER, extra={**POD, "authentication.kubernetes.io/pod-name": ("a", "b")}),
    ],
)
async def test_only_a_token_of_the_instances_own_pod_counts(case, identity):
    """A person, another ServiceAccount, or a token outside of a pod is refused."""
    case.kubernetes.identity = identity

    with pytest.raises(Forbidden) as refused:
        await case.seat("good")

    assert refused.value.reason is Reason.NOT_YOURS


async def test_another_instances_pod_is_refused(case):
    """A pod whose owner is not the token's instance, or is not published, works for nobody here."""
    await MemoryRegistry(case.record).publish_instance(
        replace(INSTANCE, uid="uid-b", name="b", service_account="agent-b")
    )
    for uid in ("uid-b", "unknown"):
        case.kubernetes.seat_of_pod = (uid, "r1")
        with pytest.raises(Forbidden) as refused:
            await case.seat("good")
        assert refused.value.reason is Reason.NOT_YOURS


async def test_a_worker_cannot_claim_another_revision(case):
    """The revision that a worker states must be that of its Deployment, also when the seat is remembered."""
    await case.seat("good", "r1")

    with pytest.raises(Forbidden) as refused:
        await case.seat("good", "r2")

    assert refused.value.reason is Reason.NOT_YOURS


async def test_an_answer_holds_for_a_minute_and_a_refusal_for_no_time(case):
    """Kubernetes is asked once a minute per worker; who was refused may try again at once."""
    with pytest.raises(Unauthenticated):
        await case.seat("bad")
    for moment in (0.0, 30.0, 59.0):
        case.time = moment
        await case.seat("good")
    assert case.kubernetes.asked == 2

    case.time = 61.0
    for _ in range(9):
        await case.seat("good")
    await settled(case)
    assert case.kubernetes.asked == 3
    await case.seat("good")
    assert case.kubernetes.asked == 3


async def test_a_known_worker_never_waits_for_kubernetes(case):
    """A minute-old answer still seats, however long the API server takes; no lease ends for its sake."""
    await case.seat("good")
    case.time, case.kubernetes.answers = 61.0, asyncio.Event()

    async with asyncio.timeout(1):
        seat = await case.seat("good")
    case.kubernetes.answers.set()
    await settled(case)

    assert (seat.pod, case.kubernetes.asked) == ("pod-1", 2)


@pytest.mark.parametrize("error", [Unauthenticated("revoked"), Forbidden("over", Reason.NOT_YOURS)])
async def test_a_worker_that_is_one_no_longer_is_refused_after_a_minute(case, error):
    """The first call after a minute finds out, and the next is refused."""
    await case.seat("good")
    case.time, case.kubernetes.error = 61.0, error
    await case.seat("good")
    await settled(case)

    with pytest.raises(type(error)):
        await case.seat("good")


async def test_an_outage_of_kubernetes_ends_no_work_for_five_minutes(case):
    """Who is known is seated that long without an answer; then it hears to try again."""
    await case.seat("good")
    case.kubernetes.error = Unavailable("away")
    for case.time in (61.0, 200.0, 299.0):
        await case.seat("good")
        await settled(case)
    case.time = 301.0
    with pytest.raises(Unavailable):
        await case.seat("good")
    case.kubernetes.error = None

    assert (await case.seat("good")).pod == "pod-1"


async def test_a_known_worker_is_served_while_kubernetes_is_away(case):
    """Who was seated a moment ago goes on; a stranger hears that it may try again."""
    await case.seat("good")
    case.kubernetes.error = Unavailable("away")

    await case.seat("good")
    with pytest.raises(Unavailable):
        await case.seat("other")


async def test_the_memory_is_bounded(case, monkeypatch):
    """However many tokens come, only so many are remembered."""
    monkeypatch.setattr("everesthood.usecases.seat_worker._MOST", 2)

    async def any_token(token, audiences):
        case.kubernetes.asked += 1
        return WORKER

    case.kubernetes.authenticate = any_token
    await asyncio.gather(*(case.seat(f"token-{n}") for n in range(5)))
    await case.seat("token-4")
    await case.seat("token-0")

    assert case.kubernetes.asked == 6
