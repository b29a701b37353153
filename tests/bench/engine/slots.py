"""How full a worker keeps its slots: steps of 100 ms, 100 at once, as a share of what would be ideal.

The runs are there before the worker is. It is timed by the record from the end of run WARM to the end of run
WARM + RUNS, with work still waiting: before that it loads its queue's client, after that slots rest for want of runs.
"""

import asyncio
import statistics

from tests.bench.engine.agents import NAP_SECONDS
from tests.bench.engine.ours import SLOTS, code, installation, per_run

WARM = 2_000
RUNS = 5_000
REST = 500
ROUNDS = 3
TARGET = 0.95
TIMED = """
with ended as (select finished_at, row_number() over (order by finished_at) as place from run)
select extract(epoch from max(finished_at) - min(finished_at))::float8 from ended where place in ($1, $2)
"""


async def share() -> tuple[float, str]:
    """Return the share of the ideal, and where the processor time went."""
    async with installation(code("nap"), workers=0) as mine:
        await mine.sent(mine.load(WARM + RUNS + REST))
        before = mine.cpu()
        await asyncio.to_thread(mine.system.start_worker)
        await mine.done(WARM + RUNS + REST)
        seconds = await mine.record.fetchval(TIMED, WARM, WARM + RUNS)
        after = {name: used for name, used in mine.cpu().items() if name in before}
        return RUNS * NAP_SECONDS / SLOTS / seconds, per_run(before, after, WARM + RUNS + REST)


def measure(rounds: int = ROUNDS) -> int:
    """Print a line; return whether the target was missed."""
    shares, notes = zip(*(asyncio.run(share()) for _ in range(rounds)), strict=True)
    found = statistics.median(shares)
    print(f"{NAP_SECONDS * 1000:.0f} ms steps, {SLOTS} slots, {RUNS:,} runs: {found:.1%} of ideal, ", end="")
    print(f"{min(shares):.1%}-{max(shares):.1%} in {rounds} rounds; target ≥ {TARGET:.0%}")
    print(f"  µs a run without the worker: {notes[-1]}")
    return int(found < TARGET)
