"""The processes of `everesthood dev` are forks: each is as its own interpreter would have made it."""

import asyncio
import os
import select
import sys

import pytest

pytestmark = pytest.mark.integration

PROGRAM = """
import asyncio, os, signal
from everesthood.entrypoints.cli.forks import open_forks
forks = open_forks()

async def main():
{body}

asyncio.run(main())
"""


async def lines(body: str) -> list[str]:
    """Run a program that may fork, in an interpreter without our threads; return what it wrote."""
    program = PROGRAM.format(body="\n".join(f"    {line}" for line in body.strip().splitlines()))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode().splitlines()


async def test_a_fork_sees_its_own_environment_only_and_its_end_is_told():
    """It starts with what it is told, not with what the command has; what it says and its code come back."""
    told = await lines("""
os.environ["EVERESTHOOD_REVISION"] = "the command's"
fork = await forks.fork("worker")
said = await fork.begin({"PATH": os.environ["PATH"]})
print((await said.read()).decode().strip())
print(await fork.wait(), fork.returncode)
""")
    assert told == ["Set EVERESTHOOD_REVISION: which revision does this worker execute?", "1 1"]


async def test_a_fork_that_is_killed_is_told_as_such():
    """A signal that ended it is its code, below zero; another signal after its end hits nobody."""
    told = await lines("""
fork = await forks.fork("worker")
fork.kill()
print(await fork.wait() == -signal.SIGKILL)
fork.send_signal(signal.SIGTERM)
""")
    assert told == ["True"]


async def test_no_fork_outlives_the_command():
    """When the command is gone without a word, its processes end."""
    told = await lines("""
fork = await forks.fork("worker")
nowhere = {"EVERESTHOOD_GATEWAY_URL": "http://127.0.0.1:1", "EVERESTHOOD_METRICS_PORT": "0"}
said = await fork.begin({"EVERESTHOOD_REVISION": "r", "EVERESTHOOD_GATEWAY_TOKEN_FILE": "/", **nowhere})
print((await said.readline()).decode().find("gateway token cannot be read") > 0, flush=True)
print(fork.pid, flush=True)
os._exit(0)
""")
    assert told[0] == "True"
    try:
        process = os.pidfd_open(int(told[1]))
    except ProcessLookupError:
        return  # it ended already
    ready, _, _ = await asyncio.to_thread(select.select, [process], [], [], 20)
    os.close(process)
    assert ready, "the worker goes on without its command"
