"""Wires the worker. Celery is imported only when the queue is listened to: the first claim comes first."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from everesthood.adapters.gateway import GatewayClient, LeasedCredentials
from everesthood.adapters.languages import Languages
from everesthood.adapters.outbound import GuardedClient, Policy
from everesthood.adapters.steps import Steps
from everesthood.adapters.telemetry.work_figures import WorkerMetrics
from everesthood.apis.wire import Program, QueueLease
from everesthood.domain.errors import Invalid
from everesthood.domain.steps import Agent, agent_of
from everesthood.settings import Settings
from everesthood.usecases.execute_run import execute_run
from everesthood.usecases.execute_step import Doing
from everesthood.usecases.expressions import Expressions
from everesthood.usecases.heed_holds import HeedingOutbound
from everesthood.usecases.work_loop import Worker

if TYPE_CHECKING:
    from everesthood.adapters.celery import BellConsumer


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerParts:
    """What the worker process works with."""

    gateway: GatewayClient
    build: Callable[[Program], Awaitable[Worker]]
    """Returns the work loop for a program; raises StepFailed when its code cannot be found."""
    listen: Callable[[QueueLease, Callable[[], None], Callable[[bool], None]], "BellConsumer"]


@asynccontextmanager
async def worker_parts(settings: Settings) -> AsyncIterator[WorkerParts]:
    """Yield the collaborators and close what they hold."""
    if not settings.revision:
        raise Invalid("Set EVERESTHOOD_REVISION: which revision does this worker execute?")
    figures = WorkerMetrics()
    gateway = GatewayClient(
        settings.gateway_url,
        token_file=settings.gateway_token_file,
        revision=settings.revision,
        observe=figures.gateway_called,
    )
    try:
        yield WorkerParts(
            gateway=gateway,
            build=partial(build_worker, gateway=gateway, figures=figures),
            listen=partial(_listen, settings.identity or "worker"),
        )
    finally:
        await gateway.aclose()


async def build_worker(program: Program, *, gateway: GatewayClient, figures: WorkerMetrics) -> Worker:
    """Return the work loop of one program."""
    agent = agent_of(program)
    expressions = Expressions(Languages())
    credentials = LeasedCredentials(gateway)
    outbound = HeedingOutbound(GuardedClient(_policy(agent), credentials), gateway)
    steps = Steps(expressions=expressions, outbound=outbound, credentials=credentials, children=gateway)
    await steps.prepare(agent.spec.steps)
    doing = Doing(runner=steps, expressions=expressions, figures=figures)
    return Worker(
        gateway=gateway,
        execute=partial(execute_run, agent=agent, doing=doing),
        slots=agent.spec.worker.slots,
        figures=figures,
        trouble=steps.trouble,
    )


def _policy(agent: Agent) -> Policy:
    return Policy(
        egress=agent.spec.egress.hosts,
        internal_hosts=agent.internal_hosts,
        slots={slot: tuple(hosts) for slot, hosts in agent.slots.items()},
    )


def _listen(
    name: str, lease: QueueLease, on_bell: Callable[[], None], on_line: Callable[[bool], None]
) -> "BellConsumer":
    from everesthood.adapters.celery import BellConsumer  # noqa: PLC0415 - half a second, 20 MiB

    return BellConsumer(lease, name=name, on_bell=on_bell, on_line=on_line)
