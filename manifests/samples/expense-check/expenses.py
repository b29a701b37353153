"""Checks an expense report against an organisation's policy; step `check` of the agent in agent.yaml.

Plain Python on plain values: the same function runs in a test, in a notebook and in a worker.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal

from everesthood.sdk import Context

Line = dict[str, str]
Finding = dict[str, str]


async def check(ctx: Context) -> dict[str, object]:
    """Return the verdict on `lines` under `policy`."""
    lines, policy = ctx.args["lines"], ctx.args["policy"]
    found = [*over_limit(lines, policy["limits"]), *no_receipt(lines, policy), *twice(lines)]
    total = sum((Decimal(line["amount"]) for line in lines), Decimal(0))
    ctx.log(f"{len(lines)} lines, {total} {policy['currency']}, {len(found)} findings")
    return {
        "approved": not found,
        "total": f"{total:.2f} {policy['currency']}",
        "findings": found,
    }


def over_limit(lines: list[Line], limits: dict[str, str]) -> Iterator[Finding]:
    """Yield each day and category that costs more than the policy allows."""
    spent: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for line in lines:
        spent[line["date"], line["category"]] += Decimal(line["amount"])
    for (date, category), amount in sorted(spent.items()):
        if category in limits and amount > Decimal(limits[category]):
            yield {
                "rule": "limit",
                "line": f"{date} {category}",
                "why": f"{amount} is over the daily limit of {limits[category]}",
            }


def no_receipt(lines: list[Line], policy: dict[str, str]) -> Iterator[Finding]:
    """Yield lines that need a receipt and have none."""
    least = Decimal(policy["receiptFrom"])
    for line in lines:
        if Decimal(line["amount"]) >= least and not line.get("receipt"):
            yield {
                "rule": "receipt",
                "line": f"{line['date']} {line['merchant']}",
                "why": f"{line['amount']} needs a receipt, from {least} on",
            }


def twice(lines: list[Line]) -> Iterator[Finding]:
    """Yield lines that stand there more than once."""
    seen = Counter((line["date"], line["merchant"], line["amount"]) for line in lines)
    for (date, merchant, amount), times in seen.items():
        if times > 1:
            yield {"rule": "twice", "line": f"{date} {merchant}", "why": f"{amount} is claimed {times} times"}
