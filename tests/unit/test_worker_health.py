"""What a worker says of its own health."""

import asyncio
import contextlib
from typing import Any

import httpx2
from tests.support.valkey import free_port

from everesthood.domain.errors import Unavailable
from everesthood.entrypoints.worker.main import Process


class Gateway:
    """Hands out a program, and no queue yet."""

    async def program(self) -> Any:
        return object()

    async def queue(self) -> Any:
        raise Unavailable("not yet")


class Runs:
    """A work loop that says of itself what the test wants."""

    def __init__(self) -> None:
        self.leaving = asyncio.Event()
        self.said: str | None = None

    def trouble(self) -> str | None:
        return self.said

    async def serve(self) -> None:
        await asyncio.Event().wait()

    def wake(self) -> None: ...

    async def stop(self, grace_seconds: float) -> None: ...


async def test_code_that_never_returns_fails_liveness() -> None:
    """Only a new process has its threads back, so the kubelet is told, with the reason in the answer."""
    runs, stop, port = Runs(), asyncio.Event(), free_port()

    async def build(_: object) -> Runs:
        return runs

    process = Process(gateway=Gateway(), build=build, listen=lambda *_: None, grace_seconds=0)  # type: ignore[arg-type,return-value]
    serving = asyncio.create_task(process.serve(metrics_port=port, stop=stop))
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            well = await _answer(client)
            runs.said = "50 threads are held by code that outlived its step: work"
            ill = await client.get("/healthz")
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    assert well.status_code == 200
    assert ill.status_code == 503
    assert "50 threads are held" in ill.text


async def _answer(client: httpx2.AsyncClient) -> httpx2.Response:
    """Return the first answer after the program is built: until then nobody listens, or nothing is ready."""
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(httpx2.TransportError):
                if (await client.get("/readyz")).status_code == 200:
                    return await client.get("/healthz")
            await asyncio.sleep(0.01)
