"""The REST API of an installation, through a forwarded port, as the sample organisation's operator."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2
from demo.installation import NAMESPACE, ORGANIZATION
from demo.tools import Tools

FINAL = frozenset({"succeeded", "dead", "cancelled", "expired", "ambiguous"})
_POLL_SECONDS = 0.2
Json = dict[str, Any]
T = TypeVar("T")


def until(look: Callable[[], T | None], *, seconds: float, what: str) -> T:
    """Return the first true thing that `look` sees; nothing here can be waited for, so it asks again."""
    end = time.monotonic() + seconds
    while True:
        if seen := look():
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(_POLL_SECONDS)


@dataclass(slots=True)
class Marketplace:
    """Starts and watches runs."""

    client: httpx2.Client
    started: list[str] = field(default_factory=list)

    def post(self, instance: str, value: Json, **headers: str) -> httpx2.Response:
        """Ask for a run and return the answer as it is."""
        return self.client.post(f"instances/{instance}/runs", json={"input": value}, headers=headers)

    def start(self, instance: str, value: Json) -> str:
        """Start a run and return its id."""
        answer = self.post(instance, value)
        assert answer.status_code == httpx2.codes.CREATED, answer.text
        self.started.append(answer.json()["id"])
        return self.started[-1]

    def get(self, run: str) -> Json:
        """Return a run."""
        answer = self.client.get(f"runs/{run}")
        assert answer.status_code == httpx2.codes.OK, answer.text
        found: Json = answer.json()
        return found

    def finished(self, run: str, *, seconds: float = 90) -> Json:
        """Wait for the end of a run and return it."""

        def over() -> Json | None:
            found = self.get(run)
            return found if found["state"] in FINAL else None

        return until(over, seconds=seconds, what=f"the end of run {run}")


@contextmanager
def marketplace(tools: Tools) -> Iterator[Marketplace]:
    """Yield the API for as long as the block lasts."""
    token = tools.kubectl(
        *("-n", ORGANIZATION, "create", "token", "everesthood-cli", "--audience", "everesthood-web")
    ).strip()
    with tools.forwarded(NAMESPACE, "svc/everesthood-web", 80) as port:
        base = f"http://127.0.0.1:{port}/api/agent-marketplace/namespaces/{ORGANIZATION}/"
        headers = {"Authorization": f"Bearer {token}"}
        with httpx2.Client(base_url=base, headers=headers, timeout=30, trust_env=False) as client:
            yield Marketplace(client)


def hits(tools: Tools) -> dict[str, int]:
    """Return what the counting server counted."""
    path = "/api/v1/namespaces/counter/services/counter:8080/proxy/hits"
    counted: dict[str, int] = json.loads(tools.kubectl("get", "--raw", path))
    return counted
