"""How full a worker keeps its slots: steps of 100 ms, 100 at once, as a share of what would be ideal.

The runs are there before the worker is; the time is from the first claim to the last end, by the record.
"""

import asyncio
import statistics

from tests.bench.engine.agents import NAP_SECONDS
from tests.bench.engine.ours import SLOTS, code, installation, per_run

RUNS = 5_000
ROUNDS = 3
TARGET = 0.95


async def share() -> tuple[float, str]:
    """Return the share of the ideal, and where the processor time went."""
    async with installation(code("nap"), workers=0) as mine:
        await mine.sent(mine.load(RUNS))
        before = mine.cpu()
        await asyncio.to_thread(mine.system.start_worker)
        await mine.done(RUNS)
        seconds = await mine.record.fetchval(
            "select extract(epoch from max(finished_at) - min(started_at))::float8 from run"
        )
        after = {name: used for name, used in mine.cpu().items() if name in before}
        return RUNS * NAP_SECONDS / SLOTS / seconds, per_run(before, after, RUNS)


def measure(rounds: int = ROUNDS) -> int:
    """Print a line; return whether the target was missed."""
    shares, notes = zip(*(asyncio.run(share()) for _ in range(rounds)), strict=True)
    found = statistics.median(shares)
    print(f"{NAP_SECONDS * 1000:.0f} ms steps, {SLOTS} slots, {RUNS:,} runs: {found:.1%} of ideal, ", end="")
    print(f"{min(shares):.1%}-{max(shares):.1%} in {rounds} rounds; target ≥ {TARGET:.0%}")
    print(f"  µs a run without the worker: {notes[-1]}")
    return int(found < TARGET)
