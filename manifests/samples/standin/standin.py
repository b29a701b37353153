#!/usr/bin/env python3
"""A stand-in for a language model: OpenAI-compatible, deterministic, and not intelligent.

It picks sentences and words out of what it is given, so that samples and tests run without a key to
a real model. It also serves a few sample documents under /data/. Standard library only.
"""

import hmac
import json
import os
import re
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

MODEL = "standin-extractive"
MAX_BODY = 1_048_576
LONGEST = 300
MOST_ITEMS = 3
STOP = frozenset(
    """a an and are as at be been but by can did do for from had has have he her his i if in is it its me my
    no not of on or our she so subject that the their them they this to us was we were what when which will
    with you your""".split()  # noqa: SIM905 - reads as what it is
)
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
WORD = re.compile(r"[a-z0-9']+")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
# Words that speak for an answer where the answer itself is not in the text.
HINTS = {
    "billing": "invoice invoices charge charged payment paid pay refund price bill billed card receipt",
    "outage": "down outage unavailable broken error errors fails failing crash crashed 500 503 offline",
    "access": "login log password locked account permission denied sign access reset authenticator",
    "question": "how what where why question wondering possible help explain",
    "high": "urgent urgently immediately asap critical production down nobody everyone blocked outage",
    "low": "whenever someday minor wondering curious question sometime",
    "positive": "great good love thanks thank happy excellent perfect",
    "negative": "bad broken terrible angry disappointed hate worst fails",
}
DATA = {
    "releases.json": {
        "releases": [
            {"name": "paper-mill", "version": "4.2.1", "date": "2026-03-02", "security": True,
             "summary": "Refuses documents that name a file outside their folder."},
            {"name": "river", "version": "1.9.0", "date": "2026-02-24", "security": False,
             "summary": "Reads compressed streams and starts twice as fast."},
            {"name": "tally", "version": "0.8.3", "date": "2026-02-11", "security": False,
             "summary": "Counts words in languages without spaces."},
            {"name": "gatehouse", "version": "2.0.4", "date": "2026-01-30", "security": True,
             "summary": "Ends sessions when the password changes."},
        ]
    },
    "orders.json": {
        "orders": [
            {"id": "A-1001", "customer": "North Bakery", "total": "184.50", "currency": "EUR", "paid": True},
            {"id": "A-1002", "customer": "Harbour Books", "total": "67.20", "currency": "EUR", "paid": False},
            {"id": "A-1003", "customer": "Fern & Oak", "total": "1290.00", "currency": "EUR", "paid": False},
        ]
    },
}  # fmt: skip


def words(text: str) -> list[str]:
    """Return the words that carry meaning."""
    return [w for w in WORD.findall(text.lower()) if w not in STOP]


def summary(text: str, limit: int = LONGEST) -> str:
    """Return the sentences whose words are frequent in the text, in their order, within a length."""
    sentences = [s.strip() for s in SENTENCE.split(text) if words(s)]
    count = Counter(words(text))
    rated = sorted(
        sentences, key=lambda s: (-sum(count[w] for w in words(s)) / len(words(s)), sentences.index(s))
    )
    chosen, room = set(), limit
    for sentence in rated:
        if len(sentence) + 1 <= room:
            chosen.add(sentence)
            room -= len(sentence) + 1
    picked = " ".join(s for s in dict.fromkeys(sentences) if s in chosen)
    return picked or text.strip()[:limit]


def choice(options: list[Any], text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the option that the text speaks for; the middle one if it speaks for none."""
    count = Counter(WORD.findall(text.lower()))

    def score(option: object) -> int:
        name = str(option).lower()
        return sum(count[w] for w in {*WORD.findall(name), *HINTS.get(name, "").split()})

    best = max(options, key=score)
    return best if score(best) else options[len(options) // 2]


def filled(schema: dict[str, Any], text: str, name: str = "") -> Any:  # noqa: ANN401, PLR0911
    """Return a value that matches the schema, taken from the text."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return choice(schema["enum"], text)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = next(k for k in kind if k != "null") if isinstance(kind, list) else kind
    if kind == "object":
        wanted = schema.get("properties", {})
        return {key: filled(part, text, key) for key, part in wanted.items()}
    if kind == "array":
        part = schema.get("items", {"type": "string"})
        pieces = [s.strip() for s in SENTENCE.split(text) if words(s)] or [text]
        least, most = schema.get("minItems", 1), schema.get("maxItems", MOST_ITEMS)
        count = max(least, min(most, MOST_ITEMS, len(pieces)))
        return [filled(part, pieces[n % len(pieces)], name) for n in range(count)]
    if kind in ("integer", "number"):
        return number(schema, text, name, kind)
    if kind == "boolean":
        return bool(
            set(WORD.findall(text.lower())) & {*HINTS.get(name, "").split(), *WORD.findall(name.lower())}
        )
    return None if kind == "null" else string(schema, text)


def string(schema: dict[str, Any], text: str) -> str:
    """Return a sentence within the bounds of the schema."""
    said = summary(text, min(schema.get("maxLength", LONGEST), LONGEST))
    return said.ljust(schema.get("minLength", 0), ".")


def number(schema: dict[str, Any], text: str, name: str, kind: str) -> float:
    """Return the first number of the text, or how often the text speaks of the name."""
    found = NUMBER.findall(text)
    value = float(found[0]) if found else float(words(text).count(name.lower()))
    value = min(max(value, schema.get("minimum", value)), schema.get("maximum", value))
    return int(value) if kind == "integer" else value


def complete(request: dict[str, Any]) -> dict[str, Any]:
    """Return a chat completion for a request."""
    messages = request["messages"]
    asked = "\n".join(str(m.get("content", "")) for m in messages if m.get("role") == "user")
    form = request.get("response_format") or {}
    if form.get("type") == "json_schema":
        content = json.dumps(filled(form["json_schema"].get("schema", {}), asked), ensure_ascii=False)
    else:
        content = summary(asked)
    used = sum(len(WORD.findall(str(m.get("content", "")).lower())) for m in messages)
    said = len(WORD.findall(content.lower()))
    reply = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    usage = {"prompt_tokens": used, "completion_tokens": said, "total_tokens": used + said}
    model = request.get("model") or MODEL
    return {"id": "standin", "object": "chat.completion", "created": 0, "model": model, "choices": [reply],
            "usage": usage}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """Three routes."""

    protocol_version = "HTTP/1.1"
    server_version = "everesthood-standin"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        """Serve health, the list of models and the sample documents."""
        path = urlsplit(self.path).path
        if path == "/healthz":
            self.answer(200, {"status": "ok", "model": MODEL})
        elif path.startswith("/data/") and path[6:] in DATA:
            self.answer(200, DATA[path[6:]])
        else:
            self.refuse(404, "there is /v1/chat/completions, /healthz, and under /data/: " + ", ".join(DATA))

    def do_POST(self) -> None:
        """Answer a chat completion."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            return self.refuse(413, f"send a body with a Content-Length of at most {MAX_BODY}")
        body = self.rfile.read(int(length))
        if urlsplit(self.path).path != "/v1/chat/completions":
            return self.refuse(404, "post to /v1/chat/completions")
        if not self.is_known():
            return self.refuse(401, "send the key as a bearer token")
        try:
            return self.answer(200, complete(json.loads(body)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, StopIteration):
            return self.refuse(400, "the body is no chat completion request")

    def is_known(self) -> bool:
        """Return whether the caller has the key; without STANDIN_KEY any key will do."""
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        expected = os.environ.get("STANDIN_KEY", "")
        known = hmac.compare_digest(given.encode(), expected.encode()) if expected else bool(given)
        return scheme.lower() == "bearer" and known

    def refuse(self, status: int, message: str) -> None:
        """Answer as OpenAI does when it refuses."""
        self.answer(status, {"error": {"message": message, "type": "invalid_request_error"}})

    def answer(self, status: int, value: object) -> None:
        """Send JSON."""
        body = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, template: str, *values: object) -> None:
        """Write the request line and the status, never a header or a body."""
        sys.stderr.write(f"standin: {template % values}\n")


def main() -> None:
    """Serve until stopped."""
    port = int(os.environ.get("PORT", "8080"))
    server = ThreadingHTTPServer((os.environ.get("HOST", ""), port), Handler)
    server.daemon_threads = True
    print(f"stand-in model on port {server.server_address[1]}", flush=True)  # noqa: T201 - says the chosen port
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
