"""What the controller costs, beside a bare client that writes the same objects.

A controller-manager has to run, workers need not. One table is printed.
"""

import argparse
import asyncio
import os
import re
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.cluster import provider
from tests.support.controller import (
    apply,
    eventually,
    install_crds,
    instance,
    path_to,
    settings_for,
    template,
)

from everesthood.adapters.kubernetes.client import MERGE_PATCH, Client, connect, object_path
from everesthood.adapters.kubernetes.cluster import path_of
from everesthood.apis import names
from everesthood.apis.v1alpha1.instance import AgentInstanceSpec
from everesthood.apis.v1alpha1.template import AgentTemplateSpec
from everesthood.bootstrap.installation import site_of
from everesthood.domain import workers
from everesthood.domain.children import Child
from everesthood.domain.observed import Key, Kind, Live

AT_ONCE = 16
QUIET_SECONDS = 30.0
EDITS = 500
CHILDREN = (Kind.SERVICE_ACCOUNT, Kind.NETWORK_POLICY, Kind.DEPLOYMENT)
ROOT = Path(__file__).parents[2]
TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A controller that is measured from outside."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.pid = process.pid
        self._process, self._port = process, port

    async def metrics(self) -> dict[str, float]:
        """Return sums by metric name, and by name and first label."""
        text = await asyncio.to_thread(_fetch, f"http://127.0.0.1:{self._port}/metrics")
        sums: dict[str, float] = {}
        for name, labels, value in re.findall(r"^(\w+)(\{[^}]*\})? ([\d.e+-]+)$", text, re.MULTILINE):
            for key in (name, *re.findall(r'\w+="[^"]*"', labels)):
                label = name if key == name else f"{name}{{{key}}}"
                sums[label] = sums.get(label, 0.0) + float(value)
        return sums

    async def writes(self) -> float:
        """Return all calls but reads and the lease's renewals (the only PUTs)."""
        seen = await self.metrics()
        return sum(_verb(seen, verb) for verb in ("PATCH", "POST", "DELETE"))

    async def passes(self) -> float:
        """Return how often AgentInstances were looked at."""
        return (await self.metrics()).get('everesthood_reconciles_total{kind="AgentInstance"}', 0.0)

    async def has_seen(self, number: int) -> bool:
        """Return whether so many AgentInstances were looked at."""
        return await self.passes() >= number

    def cpu_seconds(self) -> float:
        """Return the processor time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self, what: str = "VmRSS") -> float:
        """Return resident memory in MiB."""
        found = re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        return int(found.group(1)) / 1024 if found else 0.0

    async def calm(self) -> None:
        """Wait until nothing has been looked at for two seconds."""
        last, since = -1.0, time.monotonic()
        while time.monotonic() - since < 2:
            seen = (await self.metrics()).get("everesthood_reconciles_total", 0.0)
            if seen != last:
                last, since = seen, time.monotonic()
            await asyncio.sleep(0.2)


def _verb(seen: dict[str, float], verb: str) -> float:
    return seen.get(f'everesthood_kubernetes_requests_total{{verb="{verb}"}}', 0.0)


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


@asynccontextmanager
async def controller(kubeconfig: str, identity: str) -> AsyncIterator[Process]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.controller_process", kubeconfig, identity, str(port),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"running\n"
    try:
        yield Process(process, port)
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


async def in_parallel(jobs: Iterable[Awaitable[Any]]) -> None:
    """Await all, some at a time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(job: Awaitable[Any]) -> None:
        async with gate:
            await job

    await asyncio.gather(*(one(job) for job in jobs))


async def count(client: Client, kind: Kind, namespace: str) -> int:
    """Return how many objects there are, without reading them."""
    answer = await client.get(path_of(kind, namespace), query={"limit": 1})
    return len(answer.get("items") or ()) + int(answer["metadata"].get("remainingItemCount") or 0)


async def all_there(client: Client, namespace: str, number: int) -> bool:
    # The namespace's own ServiceAccount `default` is one more.
    wanted = {kind: number + (kind is Kind.SERVICE_ACCOUNT) for kind in CHILDREN}
    return all([await count(client, kind, namespace) >= wanted[kind] for kind in CHILDREN])


def children_of(raw: dict[str, Any], kubeconfig: str) -> list[Child]:
    """Return what the controller would make for an instance."""
    meta = raw["metadata"]
    live = Live(key=Key(Kind.INSTANCE, meta["namespace"], meta["name"]), uid=meta["uid"], resource_version=1)
    site = site_of(settings_for(kubeconfig))
    spec = AgentInstanceSpec.model_validate(raw["spec"])
    content = AgentTemplateSpec.model_validate(template()["spec"])
    return [
        workers.service_account(live, "greeter"),
        workers.network_policy(live, "greeter", site),
        workers.deployment(live, spec, revision="0123456789abcdef", template=content, site=site),
    ]


async def bare(client: Client, kubeconfig: str, number: int) -> float:
    """Write instances and their children as fast as a plain client does; return the seconds."""

    async def one(body: dict[str, Any]) -> None:
        (raw,) = await apply(client, body)
        for child in children_of(raw, kubeconfig):
            await client.apply(path_of(child.key.kind, child.key.namespace, child.key.name), child.body)

    async with namespace(client, "bench-bare") as name:
        started = time.monotonic()
        await in_parallel(one(instance(f"i{n}", namespace=name)) for n in range(number))
        return time.monotonic() - started


@asynccontextmanager
async def namespace(client: Client, name: str) -> AsyncIterator[str]:
    await client.create("/api/v1/namespaces", {"metadata": {"name": name}})
    try:
        yield name
    finally:
        path = object_path(names.API_VERSION, "agentinstances", namespace=name)
        gone = {"metadata": {"finalizers": None}}
        items = (await client.get(path))["items"]
        await in_parallel(
            client.request("PATCH", path_to(i), body=gone, content_type=MERGE_PATCH)
            for i in items
            if i["metadata"].get("finalizers")
        )
        await client.request("DELETE", f"/api/v1/namespaces/{name}", body={})

        async def ended() -> bool:
            return all([await count(client, kind, name) == 0 for kind in (*CHILDREN, Kind.INSTANCE)])

        await eventually(ended, 900, pause=2)


async def measure(kubeconfig: str, number: int) -> None:
    rows: list[tuple[str, str]] = []
    await install_crds(kubeconfig)
    async with await connect(kubeconfig, timeout_seconds=60) as client:
        bare_seconds = await bare(client, kubeconfig, number)
        rows.append((f"bare client writes {number} instances and their children", f"{bare_seconds:.1f} s"))
        async with namespace(client, "bench-controller") as name:
            async with controller(kubeconfig, "first") as first:
                rows += await _first(client, first, name, number, bare_seconds)
            async with controller(kubeconfig, "second") as second:
                started = time.monotonic()
                await eventually(lambda: second.has_seen(number), 300, pause=0.1)
                seconds = time.monotonic() - started
                await second.calm()
                rows.append(("restart: caught up after", f"{seconds:.1f} s"))
                rows.append(("restart: writes", f"{await second.writes():.0f}"))
                rows.append(("restart: memory", f"{second.memory():.0f} MiB"))
    width = max(len(what) for what, _ in rows)
    for what, figure in rows:
        print(f"{what:<{width}}  {figure}")


async def _first(
    client: Client, process: Process, name: str, number: int, bare_seconds: float
) -> list[tuple[str, str]]:
    rows = []
    await apply(client, template(namespace=name))
    await process.calm()
    cpu, started = process.cpu_seconds(), time.monotonic()
    await in_parallel(apply(client, instance(f"i{n}", namespace=name)) for n in range(number))
    applied = time.monotonic() - started
    await eventually(lambda: all_there(client, name, number), 900, pause=0.25)
    seconds = time.monotonic() - started
    rows.append((f"{number} instances applied → all children exist", f"{seconds:.1f} s"))
    rows.append(("  of that until all are applied", f"{applied:.1f} s"))
    rows.append(("  ratio to the bare client (target ≤ 1.3)", f"{seconds / bare_seconds:.2f}"))
    await process.calm()
    rows.append(("  calm after", f"{time.monotonic() - started - 2:.1f} s"))
    rows.append(("  processor time of the controller", f"{process.cpu_seconds() - cpu:.1f} s"))
    rows.append(("  writes per instance", f"{await process.writes() / number:.2f}"))
    rows.append(("  passes per instance", f"{await process.passes() / number:.2f}"))
    await asyncio.sleep(5)
    writes, cpu, started = await process.writes(), process.cpu_seconds(), time.monotonic()
    await asyncio.sleep(QUIET_SECONDS)
    used = (process.cpu_seconds() - cpu) / (time.monotonic() - started)
    rows.append(
        (f"{number} at rest: writes in {QUIET_SECONDS:.0f} s", f"{await process.writes() - writes:.0f}")
    )
    rows.append((f"{number} at rest: of one core (target < 5 %)", f"{100 * used:.1f} %"))
    rows.append((f"{number} at rest: memory (target ≤ 200 MiB)", f"{process.memory():.0f} MiB"))
    rows.append(("most memory ever", f"{process.memory('VmHWM'):.0f} MiB"))
    rows += await _burst(client, process, name)
    return rows


async def _burst(client: Client, process: Process, name: str) -> list[tuple[str, str]]:
    path = path_to(instance("i0", namespace=name))
    before, started = await process.writes(), time.monotonic()
    for n in range(EDITS):
        body = {"spec": {"displayName": f"Edit {n}"}}
        await client.request("PATCH", path, body=body, content_type=MERGE_PATCH)
    edited = time.monotonic() - started
    await asyncio.sleep(13)  # the longest wait of the queue
    await process.calm()
    passes = await process.writes() - before  # each pass that finds a new generation writes one status
    return [(f"{EDITS} edits in {edited:.1f} s: passes (target ≤ 5)", f"{passes:.0f}")]


def main() -> None:
    """Measure on the cluster of a kubeconfig, or on one that is booted for it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.controller", description=__doc__)
    parser.add_argument(
        "--kubeconfig", default="", help="none: a control plane is booted, and stopped afterwards"
    )
    parser.add_argument("--instances", type=int, default=1000)
    chosen = parser.parse_args()
    if chosen.kubeconfig:
        asyncio.run(measure(chosen.kubeconfig, chosen.instances))
        return
    cluster = provider.choose()
    try:
        cluster.start(node=False)
        asyncio.run(measure(str(cluster.kubeconfig), chosen.instances))
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
