"""`everesthood dev` as a person uses it: files, a terminal, the API."""

import asyncio
import contextlib
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import httpx2
import pytest
from tests.support.valkey import free_port

pytestmark = pytest.mark.integration

AGENT = """
apiVersion: agents.everesthood.io/v1alpha1
kind: AgentTemplate
metadata: {name: shout}
spec:
  displayName: Shout
  inputSchema: {type: object, required: [text], properties: {text: {type: string}}}
  steps:
    - {name: loud, transform: {value: "input.text + '!'"}}
    - {name: own, needs: [loud], code: {entrypoint: "dev_agent_code:again", args: steps.loud}}
---
apiVersion: agents.everesthood.io/v1alpha1
kind: AgentInstance
metadata: {name: shouter}
spec: {templateRef: {name: shout}}
"""
CODE = "async def again(ctx):\n    ctx.log('again')\n    return ctx.args * 2\n"


class Dev:
    """The command in a terminal."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.port = process, port
        self.said = ""
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.said += line.decode()
            self._news.set()

    async def says(self, pattern: str, seconds: float = 60) -> str:
        """Wait for a line and return its first group, or all of it."""
        deadline = asyncio.get_running_loop().time() + seconds
        while (found := re.search(pattern, self.said)) is None:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._news.wait()
                    continue
            pytest.fail(f"{pattern} was not said within {seconds} s; said was:\n{self.said}")
        return found.group(found.lastindex or 0)

    async def stop(self) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)
        code = await self.process.wait()
        await self._reading
        return code

    async def run(self, text: str) -> object:
        """Start a run and return its output."""
        token = await self.says(r"EVERESTHOOD_TOKEN=(\S+)")
        base = f"http://127.0.0.1:{self.port}/api/agent-marketplace/namespaces/default"
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(trust_env=False, headers=headers, timeout=30) as client:
            answer = await client.post(f"{base}/instances/shouter/runs", json={"input": {"text": text}})
            assert answer.status_code == 201, answer.text
            run = answer.json()["id"]
            await self.says(rf"{run} is succeeded")
            return (await client.get(f"{base}/runs/{run}")).json()["output"]


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="everesthood-test-", dir="/var/tmp"))
    folder.chmod(0o711)
    return folder


@pytest.fixture
async def dev(tmp_path):
    (tmp_path / "agent.yaml").write_text(AGENT)
    (tmp_path / "dev_agent_code.py").write_text(CODE)
    # Not below tmp_path: PostgreSQL runs as another user, who must reach its folder.
    state = _folder()
    started: list[Dev] = []

    async def one(*more: str) -> Dev:
        port = free_port()
        words = ["dev", tmp_path, "--port", str(port), "--state", state / "dev", *more]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "everesthood.entrypoints.cli.main", *words,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        started.append(Dev(process, port))
        return started[-1]

    yield one
    for running in started:
        await running.stop()
    shutil.rmtree(state)


async def test_an_author_sees_an_agent_run_and_a_saved_file_count(dev, tmp_path):
    """A run does what the files say; after a save the next one does what they say now; Ctrl-C ends all."""
    running = await dev()
    assert await running.run("hey") == "hey!hey!"
    assert "own: again" in running.said
    assert 'everesthood run shouter -n default --input \'{"text": "text"}\' --follow' in running.said
    assert "warning:" not in running.said.partition("ready after")[0]

    (tmp_path / "dev_agent_code.py").write_text(CODE.replace("* 2", "* 3"))
    await running.says("dev_agent_code.py changed")
    await running.says(r"changed[\s\S]*worker/shouter +stopped")
    assert await running.run("hey") == "hey!hey!hey!"
    assert await running.stop() == 0
    assert "retry_scheduled" not in running.said


async def test_a_broken_file_keeps_what_was_good(dev, tmp_path):
    """A mistake is named with file, line and field, and the agent goes on as it was."""
    running = await dev()
    await running.says("ready after")
    (tmp_path / "agent.yaml").write_text(AGENT.replace("steps.loud", "steps.lost"))

    assert await running.says(r"agent.yaml:\d+: (spec\S+): steps.lost: there is no step lost")
    assert await running.run("hey") == "hey!hey!"


async def test_runs_outlive_the_command(dev):
    """What was accepted before a stop is there after the next start, and goes on."""
    first = await dev()
    await first.run("hey")
    run = await first.says(r"(\S+) is succeeded")
    await first.stop()
    second = await dev()
    token = await second.says(r"EVERESTHOOD_TOKEN=(\S+)")
    async with httpx2.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {token}"}) as client:
        url = f"http://127.0.0.1:{second.port}/api/agent-marketplace/namespaces/default/runs/{run}"
        assert (await client.get(url)).json()["state"] == "succeeded"


async def test_fresh_forgets_runs_but_never_those_of_a_running_command(dev):
    """`--fresh` beside a running command is refused and costs it nothing; after it, the old runs are gone."""
    first = await dev()
    await first.run("hey")
    run = await first.says(r"(\S+) is succeeded")
    beside = await dev("--fresh")
    await beside.says("runs for these files already")
    assert await first.run("hey") == "hey!hey!"
    await first.stop()

    fresh = await dev("--fresh")
    token = await fresh.says(r"EVERESTHOOD_TOKEN=(\S+)")
    async with httpx2.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {token}"}) as client:
        url = f"http://127.0.0.1:{fresh.port}/api/agent-marketplace/namespaces/default/runs/{run}"
        assert (await client.get(url)).status_code == 404


ASKING = """
---
apiVersion: agents.everesthood.io/v1alpha1
kind: AgentTemplate
metadata: {name: ask}
spec:
  displayName: Ask
  steps:
    - {name: ask, approval: {message: "May I?"}}
    - {name: who, needs: [ask], transform: {value: steps.ask.by}}
---
apiVersion: agents.everesthood.io/v1alpha1
kind: AgentInstance
metadata: {name: asker}
spec: {templateRef: {name: ask}}
"""


async def test_an_author_answers_what_an_agent_asks(dev, tmp_path):
    """The command says what waits and how to answer; the answer lets the run go on."""
    (tmp_path / "agent.yaml").write_text(AGENT + ASKING)
    running = await dev()
    token = await running.says(r"EVERESTHOOD_TOKEN=(\S+)")
    base = f"http://127.0.0.1:{running.port}/api/agent-marketplace/namespaces/default"
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(trust_env=False, headers=headers, timeout=30) as client:
        run = (await client.post(f"{base}/instances/asker/runs")).json()["id"]
        await running.says(rf"{run} is waiting: steps.ask: May I\?")
        await running.says(rf"everesthood approve {run} -n default")
        answer = await client.post(f"{base}/runs/{run}/steps/ask/approval")
        assert answer.status_code == 200, answer.text
        await running.says(rf"{run} is succeeded")
        assert (await client.get(f"{base}/runs/{run}")).json()["output"] == "you"
