"""http and llm steps: what is sent, and what becomes of the answer."""

from typing import Any

import msgspec
import pytest
from tests.support.worker import Journal, Way, agent, assignment, doing, execute, output_of, step

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import Finish
from everesthood.usecases.ports.worker import Answer, Call

JSON = {"content-type": "application/json; charset=utf-8"}


def answering(status: int = 200, body: bytes = b"", **headers: str) -> Way:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Way(lambda _: Answer(status=status, headers=named, body=body))


async def run(way: Way, member: dict[str, Any], value: object = None, **fields: Any) -> Finish:
    kind = "llm" if "endpoint" in member else "http"
    filled: dict[str, Any] = {kind: member, **fields}
    what = agent(step("call", **filled), config={"host": "example.com"})
    return await execute(what, assignment(value=value), by=doing(way))


async def test_a_call_is_made_of_templates() -> None:
    """URL, headers and body are filled in from the variables."""
    way = answering()
    member = {
        "method": "POST",
        "url": "https://{{ config.host }}/{{ input.path }}",
        "headers": [{"name": "X-Run", "value": "{{ run.id }}"}],
        "json": "{'n': input.n + 1}",
        "credential": "key",
        "maxBytes": 10,
    }
    await run(way, member, {"path": "a", "n": 1}, timeoutSeconds=7)

    call = way.calls[0]
    headers = dict(call.headers)
    assert (call.method, call.url, call.content) == ("POST", "https://example.com/a", b'{"n":2}')
    assert (headers["X-Run"], headers["Content-Type"]) == ("run-1", "application/json")
    assert (call.credential, call.max_bytes, call.timeout_seconds) == ("key", 10, 7)
    assert len(headers["Idempotency-Key"]) == 64


async def test_a_text_body_is_sent_as_text() -> None:
    """`body` is a template; its Content-Type can be the author's."""
    way = answering()
    own = [{"name": "content-type", "value": "text/csv"}, {"name": "idempotency-key", "value": "mine"}]
    await run(way, {"method": "PUT", "url": "https://a.example/", "body": "n={{ input.n }}"}, {"n": 1})
    await run(way, {"method": "PUT", "url": "https://a.example/", "body": "x", "headers": own})

    assert way.calls[0].content == b"n=1"
    assert dict(way.calls[0].headers)["Content-Type"] == "text/plain; charset=utf-8"
    assert way.calls[1].headers == (("content-type", "text/csv"), ("idempotency-key", "mine"))


async def test_the_idempotency_key_is_the_steps_own() -> None:
    """Each try of a step has the same key; reads have none."""
    way, read = answering(503), answering()
    member = {"method": "PUT", "url": "https://a.example/"}
    await run(way, member, retry={"maxAttempts": 3})
    await run(read, {"url": "https://a.example/"})

    assert len({dict(call.headers)["Idempotency-Key"] for call in way.calls}) == 1
    assert len(way.calls) == 3
    assert read.calls[0].headers == ()


@pytest.mark.parametrize(
    ("headers", "body", "seen"),
    [
        (JSON, b'{"a": [1, null]}', {"a": [1, None]}),
        ({"content-type": "application/problem+json"}, b"{}", {}),
        ({"content-type": "text/html"}, b"{}", "{}"),
        ({"content-type": "text/plain; charset=ISO-8859-1"}, b"\xe9", "é"),
        ({"content-type": "text/plain; charset=nonsense"}, b"a", "a"),
        ({"content-type": "text/plain; charset=rot13"}, b"a", "a"),
        ({}, b"\xff", "\ufffd"),
        (JSON, b"", ""),
    ],
)
async def test_a_body_is_json_or_text(headers: dict[str, str], body: bytes, seen: object) -> None:
    """The content type decides; whatever bytes come, a step has a value."""
    way = Way(lambda _: Answer(status=200, headers=headers, body=body))

    output = output_of(await run(way, {"url": "https://a.example/"}))

    assert output == {"status": 200, "headers": headers, "body": seen}


async def test_a_session_cookie_does_not_stay_in_the_record() -> None:
    """Set-Cookie is no part of the output."""
    output = output_of(await run(answering(200, set_cookie="s=1", etag="2"), {"url": "https://a.example/"}))

    assert output["headers"] == {"etag": "2"}


async def test_json_that_is_none_fails_the_step() -> None:
    """An answer that says it is JSON and is not is a failure, without its text."""
    finish = await run(
        Way(lambda _: Answer(status=200, headers=JSON, body=b"{private")), {"url": "https://a.example/"}
    )

    assert finish.reason == Reason.OUTPUT_INVALID
    assert "private" not in finish.message


@pytest.mark.parametrize(
    ("status", "method", "outcome", "tries"),
    [
        (404, "GET", "failed", 1),
        (429, "GET", "failed", 2),
        (500, "GET", "failed", 2),
        (502, "GET", "failed", 2),
        (503, "POST", "failed", 2),
        (500, "POST", "failed", 1),
        (502, "POST", "ambiguous", 1),
        (504, "POST", "ambiguous", 1),
    ],
)
async def test_a_refusal_is_read_by_its_status(status: int, method: str, outcome: str, tries: int) -> None:
    """4xx is final, busy servers are tried again, and a gateway's error leaves a POST in doubt."""
    way = answering(status, b"secret body")
    finish = await run(way, {"url": "https://a.example/x?key=1", "method": method}, retry={"maxAttempts": 2})

    assert (finish.outcome, len(way.calls)) == (outcome, tries)
    assert f"{method} a.example answered {status}" in finish.message
    assert "secret" not in finish.message
    assert "key=1" not in finish.message


async def test_expected_statuses_are_successes() -> None:
    """`expect` says which answers are good, and then only those."""
    good = await run(answering(404), {"url": "https://a.example/", "expect": [404]})
    bad = await run(answering(200), {"url": "https://a.example/", "expect": [404]})
    moved = answering(302)
    await run(moved, {"url": "https://a.example/", "expect": [302]})

    assert (good.outcome, bad.outcome) == ("succeeded", "failed")
    assert not moved.calls[0].follow_redirects


@pytest.mark.parametrize(
    ("member", "field"),
    [
        ({"url": "https://{{ input.missing }}/"}, "url"),
        (
            {"url": "https://a.example/", "headers": [{"name": "X-A", "value": "{{ input.missing }}"}]},
            "header X-A",
        ),
        ({"url": "https://a.example/", "method": "POST", "json": "input.missing"}, "json"),
        ({"url": "https://a.example/", "method": "POST", "body": "{{ input.missing }}"}, "body"),
    ],
)
async def test_a_template_that_cannot_be_filled_in_names_its_field(
    member: dict[str, Any], field: str
) -> None:
    """The message says which field of which step, and nothing was sent."""
    way = answering()
    finish = await run(way, member, {})

    assert finish.message.startswith(f"steps.call: {field}: ")
    assert way.calls == []


# --- llm ---------------------------------------------------------------------------------------

ASK = {"endpoint": "https://m.example/v1/", "model": "{{ input.model }}", "credential": "key",
       "messages": [{"role": "user", "content": "Sum up {{ input.text }}"}]}  # fmt: skip
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
INPUT = {"model": "m-1", "text": "this"}


def saying(content: str | None, **choice: Any) -> Way:
    message = {"role": "assistant", "content": content, **choice.pop("message", {})}
    body = {
        "id": "1",
        "model": "m-1-2026",
        "choices": [{"message": message, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
    }
    return answering(200, msgspec.json.encode(body))


async def test_a_model_is_asked_and_its_tokens_counted() -> None:
    """The output is the text, the usage and the model that answered."""
    way = saying("It is short.")
    finish = await run(way, {**ASK, "maxTokens": 9, "temperature": "0.5"}, INPUT)

    call = way.calls[0]
    assert (call.method, call.url, call.credential) == (
        "POST",
        "https://m.example/v1/chat/completions",
        "key",
    )
    assert msgspec.json.decode(call.content or b"") == {
        "model": "m-1",
        "messages": [{"role": "user", "content": "Sum up this"}],
        "max_tokens": 9,
        "temperature": 0.5,
    }
    assert output_of(finish) == {
        "content": "It is short.",
        "usage": {"inputTokens": 5, "outputTokens": 3},
        "model": "m-1-2026",
    }


async def test_an_answer_in_a_shape_is_a_value() -> None:
    """With outputSchema the model is asked for JSON and the output is the value, fenced or not."""
    for text in ('{"n": 3}', '```json\n{"n": 3}\n```'):
        way = saying(text)
        finish = await run(way, {**ASK, "outputSchema": SCHEMA}, INPUT)

        sent = msgspec.json.decode(way.calls[0].content or b"")
        assert output_of(finish)["content"] == {"n": 3}
        assert sent["response_format"]["json_schema"]["schema"] == SCHEMA


@pytest.mark.parametrize("text", ["not JSON", '{"n": "three"}', "[]"])
async def test_an_answer_out_of_shape_is_asked_for_again_and_then_refused(text: str) -> None:
    """A model that does not keep to the schema gets as many tries as the step has."""
    way = saying(text)
    finish = await run(way, {**ASK, "outputSchema": SCHEMA}, INPUT, retry={"maxAttempts": 2})

    assert (finish.outcome, finish.reason, len(way.calls)) == ("failed", Reason.OUTPUT_INVALID, 2)


@pytest.mark.parametrize(
    ("way", "said"),
    [
        (saying("half", finish_reason="length"), "cut off; raise maxTokens"),
        (saying(None, message={"refusal": "I will not"}), "the model refused to answer"),
        (answering(200, b'{"choices": []}'), "gave no answer"),
        (answering(200, b"<html>"), "not an OpenAI-compatible chat completion"),
        (answering(401, b"bad key sk-1"), "the model at m.example answered 401"),
    ],
)
async def test_what_is_no_answer_fails_the_step(way: Way, said: str) -> None:
    """Each way in which a model does not answer has its sentence."""
    finish = await run(way, ASK, INPUT)

    assert finish.outcome == "failed"
    assert said in finish.message
    assert "sk-1" not in finish.message


async def test_a_busy_model_is_asked_again() -> None:
    """429 and 5xx are tried again, when the model says."""
    answers = [
        Answer(status=429, headers={"retry-after": "7"}, body=b""),
        Answer(status=500, headers={}, body=b""),
    ]

    def answer(call: Call) -> Answer:
        return answers.pop(0) if answers else saying("ok")._answer(call)

    pauses: list[float] = []
    way = Way(answer)
    what = agent(step("call", llm=ASK, retry={"maxAttempts": 3, "initialSeconds": 1}))
    finish = await execute(what, assignment(value=INPUT), journal=Journal(), by=doing(way, pauses=pauses))

    assert finish.outcome == "succeeded"
    assert 7 <= pauses[0] <= 8
    assert len({dict(call.headers)["Idempotency-Key"] for call in way.calls}) == 1


async def test_a_message_that_cannot_be_filled_in_names_its_field() -> None:
    """The field path of the template is in the message."""
    finish = await run(saying(""), ASK, {"model": "m"})

    assert finish.message.startswith("steps.call: messages[0].content: ")
