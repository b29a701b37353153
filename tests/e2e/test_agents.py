"""The samples do what their README says, from kubectl apply to the printed output."""

from demo.installation import ORGANIZATION, SAMPLES, Installation


def test_expense_check_finds_what_breaks_the_policy(everesthood: Installation):
    """The author's own Python checks the report in a worker pod of the author's own image."""
    run = everesthood.run("expense-check")

    assert run["state"] == "succeeded"
    assert run["output"]["approved"] is False
    assert run["output"]["total"] == "365.60 EUR"
    assert [f["rule"] for f in run["output"]["findings"]] == ["limit", "receipt", "twice"]


def test_release_digest_reads_the_feed(everesthood: Installation):
    """A feed is fetched from a server inside the cluster and digested, newest facts only."""
    run = everesthood.run("release-digest")

    assert run["state"] == "succeeded"
    assert run["output"]["releases"] == 3
    assert [line.split(" ")[0] for line in run["output"]["security"]] == ["paper-mill"]
    assert [line.split(" ")[0] for line in run["output"]["other"]] == ["river", "tally"]


def test_support_triage_asks_the_model_with_a_leased_key(everesthood: Installation):
    """The model's answer has the promised shape, and the rules decide the queue."""
    run = everesthood.run("support-triage")

    assert run["state"] == "succeeded"
    assert (run["output"]["category"], run["output"]["queue"]) == ("outage", "on-call")
    assert 0 < len(run["output"]["summary"]) <= 300


def test_applying_the_samples_again_changes_nothing(everesthood: Installation):
    """A pipeline that applies the same manifests every minute causes no write at all."""
    kinds = "agenttemplates,agentinstances,agentcredentials,deployments,networkpolicies,serviceaccounts"
    tools = everesthood.tools

    def versions() -> dict[str, str]:
        return {
            item["metadata"]["uid"]: item["metadata"]["resourceVersion"]
            for item in tools.items(kinds, "-n", ORGANIZATION)
        }

    before = versions()
    everesthood.apply_samples()

    assert versions() == before
    for agent in ("expense-check", "release-digest", "support-triage"):
        assert tools.kubectl("diff", "--server-side", "-f", str(SAMPLES / agent)) == ""
