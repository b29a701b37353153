"""Thousands of runs at once over thousands of instances: nothing lost, nothing doubled, nobody starved.

The table of times is printed; what holds on any machine is asserted.
"""

import asyncio
import itertools
import os
import resource
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import uvloop
from tests.cluster import provider
from tests.cluster.embedded import EmbeddedCluster
from tests.cluster.fixtures import visible
from tests.cluster.progress import say
from tests.cluster.settings import STATES, Layout
from tests.cluster.town import CONTROL_PLANE, NODES, Asked, Town, not_ready, town
from tests.support.controller import eventually
from tests.support.system import most_resident

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

ORGS, EACH = 51, int(os.environ.get("EVERESTHOOD_OVERLOAD_EACH", "10"))
"""Organisations, and instances of each. 100 each is the whole town; it takes minutes to furnish."""
MANY = 10_000
LONGEST_WAIT_SECONDS = 2.0
MEMORY_MIB = 256
QUIET_PAUSE_SECONDS = 0.025
FLOOD_LANES = 50
FILES = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A town, the loop that its workers live on, and the way past pytest's capture."""

    town: Town
    runner: asyncio.Runner
    config: pytest.Config

    def say(self, text: str) -> None:
        with visible(self.config):
            say(f"  {text}")


@pytest.fixture(scope="module")
def settled(pytestconfig: pytest.Config) -> Iterator[Settled]:
    """Lend a town of its own control plane, which goes at once with all its objects."""
    if not isinstance(provider.choose(), EmbeddedCluster):
        pytest.skip("simulated nodes are only in the embedded cluster")
    _allow_files()
    cluster = EmbeddedCluster(Layout(state=STATES / "overload", subnet="10.250.6", link="everesthood6"))
    opened = town(cluster, ORGS, EACH)
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        with visible(pytestconfig):
            stack.callback(cluster.stop)
            cluster.start(node=False, fake_nodes=NODES, more=CONTROL_PLANE)
            found = runner.run(opened.__aenter__())
        stack.callback(lambda: runner.run(opened.__aexit__(None, None, None)))
        yield Settled(town=found, runner=runner, config=pytestconfig)


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))


def test_every_instance_becomes_ready(settled: Settled):
    """All 5,100 instances are Ready with all their children, and the controller never needed more than its share."""

    async def all_ready() -> bool:
        for org in settled.town.orgs:
            await eventually(lambda org=org: _none_unready(org.namespace), 300)
        return True

    async def _none_unready(namespace: str) -> bool:
        return not await not_ready(settled.town.person, namespace)

    assert settled.runner.run(all_ready())
    settled.say(f"{ORGS * EACH} instances Ready {settled.town.setup_seconds:.0f} s after nothing")
    _sound(settled)


@pytest.mark.parametrize("number", [ORGS * EACH, MANY])
def test_runs_at_once_are_each_done_once(settled: Settled, number: int):
    """So many runs asked for at once are all done, each once, and no process restarts or grows too large."""
    found = settled.town
    wanted = itertools.islice(itertools.cycle(range(EACH * ORGS)), number)
    jobs = [(found.orgs[n % ORGS], n // ORGS) for n in wanted]

    async def burst() -> Asked:
        asked = await found.ask(jobs)
        await found.all_over()
        return asked

    asked = settled.runner.run(burst())
    _report(settled, f"{number} runs at once", asked)
    assert len(asked.runs) == number
    _each_once(settled, asked)
    _sound(settled)


def test_a_flood_of_one_organisation_holds_up_no_other(settled: Settled):
    """While one organisation floods its instances with 10,000 runs, another's begin as they are asked for."""
    found, (flooding, quiet) = settled.town, settled.town.orgs[:2]

    async def alone() -> Asked:
        stop = asyncio.Event()
        stop.set()
        return await found.ask_steadily(quiet, QUIET_PAUSE_SECONDS, stop, least=200)

    async def beside_a_flood() -> tuple[Asked, Asked]:
        stop = asyncio.Event()
        steady = asyncio.create_task(found.ask_steadily(quiet, QUIET_PAUSE_SECONDS, stop, least=50))
        flood = await found.ask(((flooding, n) for n in range(MANY)), lanes=FLOOD_LANES)
        await found.all_over(flooding)
        stop.set()
        return flood, await steady

    before = settled.runner.run(alone())
    flood, beside = settled.runner.run(beside_a_flood())
    settled.runner.run(found.all_over())
    p99_before = _report(settled, "another organisation, nobody floods", before)
    _report(settled, f"{MANY} runs of one organisation", flood)
    p99_beside = _report(settled, "another organisation beside the flood", beside)
    settled.say(f"p99 beside the flood {p99_beside / p99_before:.1f} times that of before")
    assert len(flood.runs) == MANY
    assert p99_beside <= LONGEST_WAIT_SECONDS
    for asked in (before, flood, beside):
        _each_once(settled, asked)
    _sound(settled)


def _each_once(settled: Settled, asked: Asked) -> None:
    """Each run was given out once, ended once and well, with its one step."""
    found = settled.runner.run(settled.town.runs(asked))
    tally = settled.town.crowd.tally
    assert {run["id"] for run in found} == set(asked.runs)
    assert {(run["state"], run["attempt"], run["fence"], run["steps"]) for run in found} == {(3, 1, 1, 1)}
    assert {tally.executed[run] for run in asked.runs} == {1}
    assert tally.lost == 0


def _sound(settled: Settled) -> None:
    """The processes are the ones that were started, and controller and gateway are within their memory."""
    settled.town.check()
    sizes = {name: most_resident(pid) for name, pid in settled.town.pids.items()}
    settled.say("most memory: " + ", ".join(f"{name} {size:.0f} MiB" for name, size in sizes.items()))
    assert sizes["controller"] <= MEMORY_MIB
    assert sizes["gateway"] <= MEMORY_MIB


def _report(settled: Settled, what: str, asked: Asked) -> float:
    """Print how long it took; return the p99 of the seconds from asking to a worker's claim."""
    found = settled.runner.run(settled.town.runs(asked))
    waits = [run["started_at"] - asked.runs[run["id"]] for run in found]
    cuts = statistics.quantiles(waits, n=100, method="inclusive")
    done = max(run["finished_at"] for run in found) - asked.began
    refused = f"; sent again: {dict(asked.refusals)}" if asked.refusals else ""
    settled.say(
        f"{what}: {len(found)} accepted in {asked.ended - asked.began:.1f} s, all done after {done:.1f} s;"
        f" request → claimed p50 {cuts[49]:.3f}, p99 {cuts[98]:.3f}, max {max(waits):.3f} s{refused}"
    )
    return cuts[98]
