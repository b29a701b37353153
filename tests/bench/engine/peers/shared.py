"""What the Python peers share: the payload, the arguments, the clock, and one line of JSON as a result."""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

PAYLOAD = {"org": "acme", "agent": "triage", "input": {"ticket": 4711, "text": "x" * 120, "lang": "en"}}
"""About 200 bytes, as every peer and we send them."""
IN_FLIGHT = 50
PER_CALL = 100


def arguments(doc: str) -> argparse.ArgumentParser:
    """Return the arguments of every peer."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--url", required=True)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--bulk", action="store_true", help=f"{PER_CALL} jobs a call")
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--consume", action="store_true", help="be the consumer")
    return parser


def report(number: int, began: float, sent: float, done: float) -> None:
    """Print jobs a second: until all were sent, and until all were durably done."""
    print(json.dumps({"accepted": number / (sent - began), "done": number / (done - began)}), flush=True)


def until(holds: Callable[[], bool], *, every: float = 0.05, seconds: float = 300.0) -> float:
    """Return when it holds."""
    end = time.time() + seconds
    while not holds():
        if time.time() > end:
            raise TimeoutError
        time.sleep(every)
    return time.time()


async def in_flight(number: int, one: Callable[[], Awaitable[object]]) -> None:
    """Await so many, a few at a time."""
    numbers = iter(range(number))

    async def lane() -> None:
        for _ in numbers:
            await one()

    await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))


def consumer() -> subprocess.Popen[str]:
    """Start this script once more as the consumer, and return when it says that it is ready."""
    process = subprocess.Popen([sys.executable, *sys.argv, "--consume"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "ready" in line:
            return process
    raise RuntimeError("the consumer ended before it was ready")


def end(process: subprocess.Popen[str]) -> None:
    """End a consumer."""
    process.kill()
    process.wait()
