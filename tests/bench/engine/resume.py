"""How soon a run goes on after its worker was killed: from SIGKILL to the next worker's claim.

The lease is shortened, so that the rounds do not take long; it is most of the time.
"""

import asyncio
import json
import statistics
import time

from tests.bench.engine.ours import Installation, code, installation
from tests.support.lines import HttpLine
from tests.support.system import RUNS_PATH

LEASE_SECONDS = 5
KILLS = 6
TARGET_SECONDS = 2.0
_LINGER_SECONDS = 120
_CLAIMED = """
select attempt from run where id = $1::uuid and state = 1
"""


async def kills(count: int) -> list[float]:
    """Return the seconds from each kill to the next claim of the run."""
    patient = {"maxAttempts": count + 1, "maxRunSeconds": 600}  # each kill costs the run an attempt
    template = {**code("linger"), "queue": patient}
    async with installation(template, lease_seconds=LEASE_SECONDS) as mine:
        worker = mine.system.processes["worker"]
        run = await _ask(mine)
        await _claimed(mine, run, attempt=1)
        seconds = []
        for number in range(count):
            following = await asyncio.to_thread(mine.system.start_worker)
            killed = time.time()
            mine.made.kill(worker)
            claimed = await _claimed(mine, run, attempt=number + 2)
            seconds.append(claimed - killed)
            worker = following
        return seconds


async def _ask(mine: Installation) -> str:
    line = await HttpLine.open(mine.system.web, "ada-token")
    body = json.dumps({"input": {"seconds": _LINGER_SECONDS}}).encode()
    status, answer = await line.ask("POST", RUNS_PATH, body)
    await line.close()
    assert status == 201, answer
    return str(json.loads(answer)["id"])


async def _claimed(mine: Installation, run: str, *, attempt: int) -> float:
    """Return when that attempt was claimed, as far as a look each 10 ms tells."""
    async with asyncio.timeout(LEASE_SECONDS + 30):
        while True:
            row = await mine.record.fetchrow(_CLAIMED, run)
            if row is not None and row["attempt"] == attempt:
                return time.time()
            await asyncio.sleep(0.01)


def measure(rounds: int = KILLS) -> int:
    """Print a line; return whether the target was missed."""
    seconds = asyncio.run(kills(max(rounds, KILLS)))
    most = max(seconds)
    print(
        f"SIGKILL of a worker, lease {LEASE_SECONDS} s, {len(seconds)} kills: another goes on after ", end=""
    )
    print(
        f"{statistics.median(seconds):.2f} s, at most {most:.2f} s; target ≤ lease + {TARGET_SECONDS:.0f} s"
    )
    return int(most > LEASE_SECONDS + TARGET_SECONDS)
