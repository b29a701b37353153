"""A controller as a process of its own, with the record in memory: for tests that kill or measure it.

Usage: python -m tests.support.controller_process KUBECONFIG IDENTITY [METRICS_PORT]
"""

import asyncio
import logging
import signal
import sys

from tests.support.controller import settings_for

from everesthood.adapters.kubernetes.client import connect
from everesthood.adapters.memory.record import Record
from everesthood.adapters.memory.registry import MemoryRegistry
from everesthood.adapters.telemetry import serve_health
from everesthood.bootstrap.controller import build
from everesthood.entrypoints.controller.main import serve
from everesthood.usecases.ports.registry import PublishedInstance


class ReadyRegistry(MemoryRegistry):
    """A record whose queues are made in no time, so that a restart finds them made."""

    async def publish_instance(self, instance: PublishedInstance) -> None:
        await super().publish_instance(instance)
        self._record.instances[instance.uid].queue_ready = True


async def main(kubeconfig: str, identity: str, port: int) -> int:
    logging.basicConfig(level=logging.WARNING)
    stop = asyncio.Event()

    def obey() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    settings = settings_for(kubeconfig, identity=identity, rollout_seconds=300)
    async with await connect(kubeconfig) as client:
        controller = build(settings, client, ReadyRegistry(Record()))
        health = await serve_health(port, live={}, ready={}, host="127.0.0.1")
        work = asyncio.create_task(serve(controller, stop, started=obey))
        await controller.lease.leads.wait()
        print("running", flush=True)
        try:
            return await work
        finally:
            health.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2], int((sys.argv[3:] or ["0"])[0]))))
