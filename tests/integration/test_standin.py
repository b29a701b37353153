"""The stand-in model server as a process, asked as agents ask it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.support.worker import LANGUAGES, Credentials, agent, assignment, doing, execute, output_of, step

from everesthood.adapters.outbound import GuardedClient, Policy
from everesthood.apis.wire import CredentialLease, Finish

pytestmark = pytest.mark.integration

PROGRAM = Path(__file__).parents[2] / "manifests/samples/standin/standin.py"
KEY = "standin-key-1"
MESSAGE = (
    "Subject: Cannot work\n\nOur production site is down since nine. Every request fails with an error. "
    "Please help urgently, nobody can order. The weather is nice."
)
SCHEMA = {
    "type": "object",
    "required": ["category", "urgency", "summary", "count", "lines", "escalate"],
    "properties": {
        "category": {"type": "string", "enum": ["billing", "outage", "access", "question"]},
        "urgency": {"type": "string", "enum": ["low", "normal", "high"]},
        "summary": {"type": "string", "maxLength": 120, "minLength": 10},
        "count": {"type": "integer", "minimum": 1, "maximum": 5},
        "lines": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "string"}},
        "escalate": {"type": ["boolean", "null"]},
    },
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Start the server with plain Python, isolated from installed packages."""
    env = {**os.environ, "PORT": "0", "HOST": "127.0.0.1", "STANDIN_KEY": KEY}
    command = [sys.executable, "-I", "-S", str(PROGRAM)]
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline().rsplit(" ", 1)[1])
        process.terminate()


async def ask(port: int, *, key: str = KEY, schema: Any = None, text: str = MESSAGE) -> Finish:
    address = f"127.0.0.1:{port}"
    llm = {
        "endpoint": f"http://{address}/v1", "model": "standin-extractive", "credential": "key",
        "messages": [{"role": "system", "content": "Sort."}, {"role": "user", "content": "{{ input }}"}],
    }  # fmt: skip
    if schema is not None:
        llm["outputSchema"] = schema
    credentials = Credentials(key=CredentialLease(type="Bearer", value=key, hosts=(address,)))
    policy = Policy(egress=(), internal_hosts=frozenset({address}), slots={"key": (address,)})
    guarded = GuardedClient(policy, credentials)
    try:
        by = doing(guarded, credentials)
        return await execute(agent(step("read", llm=llm)), assignment(value=text), by=by)
    finally:
        await guarded.aclose()


async def test_an_llm_step_is_answered_in_shape(port: int) -> None:
    """The answer fits the schema, is taken from the text, and is the same each time."""
    first, second = await ask(port, schema=SCHEMA), await ask(port, schema=SCHEMA)

    content = output_of(first)["content"]
    assert content == output_of(second)["content"]
    assert (content["category"], content["urgency"]) == ("outage", "high")
    assert content["summary"] in MESSAGE.replace("\n\n", " ") or len(content["summary"]) <= 120
    assert output_of(first)["usage"]["inputTokens"] > 10


async def test_an_llm_step_without_a_schema_gets_sentences(port: int) -> None:
    """Without a schema the answer is made of sentences of the text."""
    output = output_of(await ask(port))

    assert output["content"]
    assert all(part in " ".join(MESSAGE.split()) for part in output["content"].split(". "))
    assert output["model"] == "standin-extractive"


async def test_a_wrong_key_is_refused(port: int) -> None:
    """The server is no open door, and the step says 401 without the key."""
    finish = await ask(port, key="wrong-key")

    assert finish.outcome == "failed"
    assert finish.message == "steps.read: the model at 127.0.0.1 answered 401"


@pytest.mark.parametrize("text", ["", "a", "?", "ä\n\nö", "1 2 3", "word " * 5000])
async def test_any_text_has_an_answer_in_shape(port: int, text: str) -> None:
    """Whatever the text, what comes back matches the schema."""
    finish = await ask(port, schema=SCHEMA, text=text)

    assert finish.outcome == "succeeded"
    assert LANGUAGES.check(SCHEMA, output_of(finish)["content"]) == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/healthz", None, 200),
        ("GET", "/data/releases.json", None, 200),
        ("GET", "/data/orders.json", None, 200),
        ("GET", "/data/../standin.py", None, 404),
        ("GET", "/", None, 404),
        ("POST", "/v1/embeddings", b"{}", 404),
        ("POST", "/v1/chat/completions", b"", 400),
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/v1/chat/completions", b'{"messages": 1}', 400),
        ("POST", "/v1/chat/completions", b'{"messages": [1]}', 400),
        ("POST", "/v1/chat/completions", b"[" * 100_000, 400),
        ("POST", "/v1/chat/completions", b"x" * 2_000_000, 413),
    ],
)
def test_no_request_breaks_the_server(
    port: int, method: str, path: str, body: bytes | None, status: int
) -> None:
    """Each odd request has its status, and the server answers the next one."""
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False) as client:
        answer = client.request(method, path, content=body)
        after = client.get("/healthz")

    assert (answer.status_code, after.status_code) == (status, 200)
    assert json.loads(answer.content)
