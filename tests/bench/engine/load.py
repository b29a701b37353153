"""Asks for runs as fast as it is answered: `python -m tests.bench.engine.load PORT PATH NUMBER [PER_CALL]`.

A process of its own, as the peers' producers are. Prints when it began and when all were accepted.
"""

import asyncio
import json
import sys
import time

import uvloop
from tests.support.lines import HttpLine

IN_FLIGHT = 50
BULK_IN_FLIGHT = 4
PAYLOAD = {"org": "acme", "agent": "triage", "input": {"ticket": 4711, "text": "x" * 120, "lang": "en"}}
"""What the peers send as well."""


async def send(port: int, path: str, number: int, per_call: int) -> tuple[float, float]:
    """Return when the first was asked for and when the last was accepted."""
    lines = [
        await HttpLine.open(port, "ada-token") for _ in range(IN_FLIGHT if per_call == 1 else BULK_IN_FLIGHT)
    ]
    wish = {"input": PAYLOAD}
    body = json.dumps(wish if per_call == 1 else {"runs": [wish] * per_call}).encode()
    calls = iter(range(number // per_call))

    async def lane(line: HttpLine) -> None:
        for _ in calls:
            status, answer = await line.ask("POST", path, body)
            assert status == 201, (status, answer)

    began = time.time()
    await asyncio.gather(*(lane(line) for line in lines))
    sent = time.time()
    for line in lines:
        await line.close()
    return began, sent


if __name__ == "__main__":
    print(json.dumps(uvloop.run(send(int(sys.argv[1]), sys.argv[2], *map(int, (*sys.argv[3:], "1")[:2])))))
