"""Workers follow the work: none at rest, as many as are needed, and none is stopped under a run."""

from demo.installation import ORGANIZATION, Installation
from demo.tools import Tools
from tests.support.marketplace import Marketplace, hits, until

GOES_SECONDS = 90
"""idleSeconds, then up to half a minute until an idle worker asks, then its end."""


def workers(tools: Tools) -> list[str]:
    """Return the worker pods that are not on their way out."""
    pods = tools.items("pods", "-n", ORGANIZATION, "-l", "agents.everesthood.io/instance=tidal")
    return [p["metadata"]["name"] for p in pods if "deletionTimestamp" not in p["metadata"]]


def test_workers_come_for_runs_and_go_after_them(everesthood: Installation, api: Marketplace):
    """From none to two for two runs, of which neither is interrupted, and back to none; Ready all the while."""
    tools = everesthood.tools
    everesthood.wait_ready("tidal")
    until(lambda: not workers(tools), seconds=GOES_SECONDS, what="the worker that proved the revision to go")
    everesthood.wait_ready("tidal", seconds=1)

    # The long one outlasts the time after which the other's worker goes.
    long = api.start("tidal", {"key": "tide-long", "seconds": 60})
    short = api.start("tidal", {"key": "tide-short", "seconds": 1})
    until(lambda: len(workers(tools)) == 2, seconds=20, what="two workers")
    first = api.finished(short)
    until(lambda: len(workers(tools)) == 1, seconds=GOES_SECONDS, what="the idle worker to go")
    assert api.get(long)["state"] == "running"
    second = api.finished(long)

    assert [(r["state"], r["attempt"]) for r in (first, second)] == [("succeeded", 1)] * 2
    assert [hits(tools)[key] for key in ("tide-long", "tide-short")] == [1, 1]
    until(lambda: not workers(tools), seconds=GOES_SECONDS, what="the last worker to go")
    assert (
        tools.get("agentinstance", "tidal", "-n", ORGANIZATION)["status"]["workers"]["reason"]
        == "ScaledToZero"
    )


def test_a_run_outlasts_the_word_that_there_be_no_worker(everesthood: Installation, api: Marketplace):
    """Somebody says none while the only worker is busy: it finishes its run beyond any grace, then goes."""
    tools = everesthood.tools
    run = api.start("steady", {"key": "none", "seconds": 45})
    until(lambda: hits(tools).get("none-second"), seconds=30, what="the second step")
    tools.kubectl("-n", ORGANIZATION, "scale", "agentinstance/steady", "--replicas=0")
    try:
        finished = api.finished(run, seconds=90)
        tools.kubectl(
            *("-n", ORGANIZATION, "wait", "--for=delete", "pod", "--timeout=60s"),
            *("-l", "agents.everesthood.io/instance=steady"),
        )
    finally:
        tools.kubectl("-n", ORGANIZATION, "scale", "agentinstance/steady", "--replicas=1")

    assert (finished["state"], finished["attempt"]) == ("succeeded", 1)
    assert hits(tools)["none-third"] == 1
    everesthood.wait_ready("steady")
