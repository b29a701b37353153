"""What each path of the gateway does: which message it takes and which use case answers."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

import msgspec

from everesthood.apis import wire
from everesthood.entrypoints.gateway import metrics
from everesthood.usecases.await_cancellation import await_cancellation
from everesthood.usecases.hold_credential import hold_credential
from everesthood.usecases.lease_credential import lease_credential
from everesthood.usecases.lease_queue import Broker, lease_queue
from everesthood.usecases.leave import Leaving
from everesthood.usecases.ports.bell import Bell
from everesthood.usecases.ports.control import Cancellations
from everesthood.usecases.ports.identity import Secrets
from everesthood.usecases.ports.record import GatewayStore, WorkerSeat, WorkStore
from everesthood.usecases.read_program import read_program
from everesthood.usecases.work import heartbeat, outputs, work


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A worker's message."""

    seat: WorkerSeat
    message: msgspec.Struct | None
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One path: how to read the body, None where there is none, and who answers."""

    serve: Callable[[Call], Awaitable[wire.Answer]]
    decoder: msgspec.json.Decoder[msgspec.Struct] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the routes need."""

    work: WorkStore
    store: GatewayStore
    bell: Bell
    secrets: Secrets
    broker: Broker
    cancellations: Cancellations
    call_instance: Callable[[WorkerSeat, wire.ChildRequest], Awaitable[wire.ChildReply]]
    leaving: Leaving
    internal_hosts: frozenset[str] = frozenset()


def routes(parts: Parts) -> Mapping[tuple[str, str], Route]:
    """Return every path of `apis.wire`."""
    served = _Served(parts)
    return {
        ("POST", wire.WORK_PATH): Route(serve=served.work, decoder=_decoder(wire.WorkRequest)),
        ("POST", wire.HEARTBEAT_PATH): Route(serve=served.heartbeat, decoder=_decoder(wire.HeartbeatRequest)),
        ("POST", wire.WATCH_PATH): Route(serve=served.watch),
        ("GET", wire.PROGRAM_PATH): Route(serve=served.program),
        ("POST", wire.QUEUE_PATH): Route(serve=served.queue),
        ("POST", wire.OUTPUTS_PATH): Route(serve=served.outputs, decoder=_decoder(wire.OutputsRequest)),
        ("POST", wire.CHILD_PATH): Route(serve=served.child, decoder=_decoder(wire.ChildRequest)),
        ("POST", wire.LEASE_PATH): Route(serve=served.lease, decoder=_decoder(wire.LeaseRequest)),
        ("POST", wire.HOLD_PATH): Route(serve=served.hold, decoder=_decoder(wire.HoldRequest)),
    }


def _decoder(kind: type[wire.Message]) -> msgspec.json.Decoder[msgspec.Struct]:
    return msgspec.json.Decoder(cast("type[msgspec.Struct]", kind))


class _Served:
    """Each route's few lines."""

    def __init__(self, parts: Parts) -> None:
        self._parts: Final = parts

    async def work(self, call: Call) -> wire.WorkReply:
        request = cast("wire.WorkRequest", call.message)
        reply = await work(store=self._parts.work, bell=self._parts.bell, seat=call.seat, request=request)
        for end in request.finished:
            metrics.FINISHED.labels(end.outcome).inc()
        metrics.CLAIMED.inc(len(reply.assignments))
        metrics.LOST.inc(len(reply.lost))
        if reply.denied:
            metrics.DENIED.labels(reply.denied).inc()
        return await self._parts.leaving.answer(call.seat, request, reply)

    async def heartbeat(self, call: Call) -> wire.HeartbeatReply:
        request = cast("wire.HeartbeatRequest", call.message)
        return await heartbeat(store=self._parts.work, seat=call.seat, request=request)

    async def watch(self, call: Call) -> wire.WatchReply:
        return await await_cancellation(self._parts.cancellations, call.seat)

    async def program(self, call: Call) -> wire.Program:
        hosts = self._parts.internal_hosts
        return await read_program(store=self._parts.store, seat=call.seat, internal_hosts=hosts)

    async def queue(self, call: Call) -> wire.QueueLease:
        return await lease_queue(store=self._parts.store, broker=self._parts.broker, seat=call.seat)

    async def hold(self, call: Call) -> wire.HoldReply:
        request = cast("wire.HoldRequest", call.message)
        held = await hold_credential(
            store=self._parts.store, seat=call.seat, slot=request.slot, seconds=request.seconds
        )
        metrics.HELD.inc()
        return held

    async def outputs(self, call: Call) -> wire.OutputsReply:
        request = cast("wire.OutputsRequest", call.message)
        return await outputs(store=self._parts.work, seat=call.seat, request=request)

    async def child(self, call: Call) -> wire.ChildReply:
        return await self._parts.call_instance(call.seat, cast("wire.ChildRequest", call.message))

    async def lease(self, call: Call) -> wire.CredentialLease:
        return await lease_credential(
            store=self._parts.store,
            secrets=self._parts.secrets,
            seat=call.seat,
            slot=cast("wire.LeaseRequest", call.message).slot,
            request_id=call.request_id,
        )
