"""The rehearsal that tests a template without a cluster, on the templates of the guides."""

from pathlib import Path
from typing import Any

import pytest

from everesthood.apis.reasons import Reason
from everesthood.rehearsal import TemplateRehearsal, Use, WaitsForApproval, WorkerDied
from everesthood.sdk import OutcomeUnknown, Request, Response, StepFailed

GUIDES = Path(__file__).parents[2] / "docs/how-to/steps"
ARTICLES = {"articles": [{"id": "a", "atMost": 500}, {"id": "b", "atMost": 900}, {"id": "c", "atMost": 100}]}
WISH = {"wish": "green tea", "budgetCents": 900}


class Shop:
    """Has one price, takes orders, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, request: Request) -> Any:
        self.asked.append(f"{request.method} {request.url}")
        return {"cents": 700} if request.method == "GET" else {"order": 1}


def buyer(messages: list[dict[str, Any]]) -> Any:
    match len(messages):
        case 2:
            return Use("search", words="green tea")
        case 4:
            return [Use("order", article="a1")]
        case _:
            return "I ordered green tea."


def test_a_loop_is_rehearsed() -> None:
    """The template of the guide says what is dear; each item's outputs can be looked at."""
    rehearsal = TemplateRehearsal(template=GUIDES / "for-each.yaml", input=ARTICLES, http=Shop())
    dear = rehearsal.run()

    assert [(item["id"], item["position"]) for item in dear] == [("a", 0), ("c", 2)]
    assert rehearsal.steps["prices[1].fetch"]["body"] == {"cents": 700}


def test_a_death_in_a_loop_is_rehearsed() -> None:
    """The second attempt fetches only what the first did not."""
    shop = Shop()
    rehearsal = TemplateRehearsal(
        template=str(GUIDES / "for-each.yaml"), input=ARTICLES, http=shop, die_after="prices[2].verdict"
    )
    with pytest.raises(WorkerDied):
        rehearsal.run()

    assert len(rehearsal.run()) == 2
    assert (sorted(set(shop.asked)), len(shop.asked), rehearsal.attempt) == (sorted(shop.asked), 3, 2)


def test_an_mcp_tool_is_rehearsed() -> None:
    """The test stands for the server; an object is structured content, a text is text."""
    seen: list[Any] = []

    def tools(tool: str, arguments: dict[str, Any]) -> Any:
        seen.append((tool, arguments))
        return {"inStock": 3}

    found = TemplateRehearsal(template=GUIDES / "mcp.yaml", input={"article": "a1"}, mcp=tools).run()
    text = TemplateRehearsal(template=GUIDES / "mcp.yaml", input={"article": "a1"}, mcp=lambda *_: "3").run()

    assert (found, text, seen) == ({"inStock": 3}, "3", [("find_stock", {"article": "a1"})])


def test_an_agent_is_rehearsed() -> None:
    """The test stands for model and shop."""
    shop = Shop()
    rehearsal = TemplateRehearsal(template=GUIDES / "agent.yaml", input=WISH, model=buyer, http=shop)

    assert rehearsal.run() == "I ordered green tea."
    assert shop.asked == [
        "GET https://shop.example.com/articles?q=green%20tea", "POST https://shop.example.com/orders",
    ]  # fmt: skip
    assert rehearsal.steps["buy/turn2/call1"] == '{"status":200,"body":{"order":1}}'


def test_a_death_in_an_order_waits_for_a_person() -> None:
    """A worker that dies in a POST leaves an ambiguous run, and the next one orders nothing."""
    shop = Shop()
    rehearsal = TemplateRehearsal(
        template=GUIDES / "agent.yaml", input=WISH, model=buyer, http=shop, die_in="buy/turn2/call1"
    )
    with pytest.raises(WorkerDied):
        rehearsal.run()
    with pytest.raises(OutcomeUnknown) as unknown:
        rehearsal.run()

    assert unknown.value.message.startswith("steps.buy: tool order: it was under way when its worker died")
    assert len(shop.asked) == 1


def test_a_failing_step_is_rehearsed() -> None:
    """What would end the run is raised, with its reason; hosts are held against the template's list."""
    spec = {"steps": [{"name": "a", "http": {"url": "https://evil.example/"}, "retry": {"maxAttempts": 2}}]}
    refused = TemplateRehearsal(template=spec, http=lambda _: "x")
    busy = TemplateRehearsal(
        template={**spec, "egress": {"hosts": ["evil.example"]}},
        http=lambda _: Response(status=503, headers={}, content=b""),
    )
    alone = TemplateRehearsal(template={**spec, "egress": {"hosts": ["evil.example"]}})

    with pytest.raises(StepFailed) as failed:
        refused.run()
    assert failed.value.reason is Reason.HOST_REFUSED
    with pytest.raises(StepFailed, match="answered 503"):
        busy.run()
    assert busy.lines[0][1].startswith("a: try 1 failed")
    with pytest.raises(StepFailed, match="nothing to answer GET"):
        alone.run()


def test_a_file_without_a_template_is_told(tmp_path: Path) -> None:
    """A wrong path is no silent success."""
    (tmp_path / "a.yaml").write_text("kind: Other\n")

    with pytest.raises(ValueError, match="has no AgentTemplate"):
        TemplateRehearsal(template=tmp_path / "a.yaml").run()


def refunds(shop: Shop, cents: int = 9000, **spec: Any) -> TemplateRehearsal:
    return TemplateRehearsal(
        template=GUIDES / "approval.yaml", input={"order": "A-17", "cents": cents}, http=shop, **spec
    )


class Refunds(Shop):
    """Knows the customer of an order."""

    def __call__(self, request: Request) -> Any:
        super().__call__(request)
        return {"name": "Ann"} if request.method == "GET" else {"id": 1}


def test_an_approval_is_rehearsed() -> None:
    """The run asks in words, waits, and does what was approved once, with the answer at hand."""
    shop = Refunds()
    rehearsal = refunds(shop)
    for _ in range(2):
        with pytest.raises(WaitsForApproval):
            rehearsal.run()
    asked = rehearsal.questions
    rehearsal.approve("ask", by="ann", comment="well")
    done = rehearsal.run()

    assert asked == {"ask": "Refund 9000 cents to Ann, order A-17?"}
    assert (done["decision"]["approved"], done["decision"]["by"], done["refund"]) == (True, "ann", {"id": 1})
    assert [line.split()[0] for line in shop.asked] == ["GET", "POST"]


def test_a_rejection_and_a_deadline_are_rehearsed() -> None:
    """Either fails the run with its reason, and nothing is refunded."""
    shop = Refunds()
    for end, reason in (("reject", Reason.APPROVAL_REJECTED), ("expire", Reason.APPROVAL_EXPIRED)):
        rehearsal = refunds(shop)
        with pytest.raises(WaitsForApproval):
            rehearsal.run()
        getattr(rehearsal, end)("ask")
        with pytest.raises(StepFailed) as failed:
            rehearsal.run()
        assert failed.value.reason is reason

    assert {line.split()[0] for line in shop.asked} == {"GET"}


def test_an_approval_that_is_not_due_asks_nobody() -> None:
    """A condition decides whether a person is asked."""
    done = refunds(Refunds(), cents=100).run()

    assert done == {"refund": {"id": 1}, "decision": None}


def test_other_agents_and_mcp_servers_are_played_by_the_test():
    """A model's calls of other instances and of a server's tools get the test's answers, once each."""
    said = [
        [Use("research", topic="tea"), Use("shop_buy", article=3)],
        "done",
    ]
    template = {
        "displayName": "Agent",
        "egress": {"hosts": ["models.example.com", "shop.example.com"]},
        "steps": [
            {
                "name": "ask",
                "agent": {
                    "endpoint": "https://models.example.com/v1", "model": "m", "instructions": "", "prompt": "?",
                    "tools": [{"name": "research", "description": "Looks up.", "instance": "researcher"}],
                    "mcpServers": [{"name": "shop", "url": "https://shop.example.com/mcp", "tools": ["buy"]}],
                },
            }
        ],
        "output": {"value": "steps.ask.content"},
    }  # fmt: skip
    seen: list[object] = []
    rehearsal = TemplateRehearsal(
        template=template,
        model=lambda messages: said[0] if len(messages) == 2 else said[1],
        mcp=lambda tool, arguments: seen.append((tool, arguments)) or "bought",
        instances=lambda name, given: seen.append((name, given)) or {"answer": 42},
        die_after="ask/turn1/call1",
    )

    with pytest.raises(WorkerDied):
        rehearsal.run()
    assert rehearsal.run() == "done"
    assert seen == [("researcher", {"topic": "tea"}), ("buy", {"article": 3})]
    assert rehearsal.steps["ask/turn1/call2"] == "bought"
