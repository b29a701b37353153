"""The rules of manifests, one by one and as a set; the fixtures in tests/fixtures hold the sentences."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.manifests import CREDENTIAL, INSTANCE, TEMPLATE, credential, instance, template

from everesthood.adapters.languages import Languages
from everesthood.apis.reasons import Reason
from everesthood.apis.v1alpha1.template import AgentTemplate
from everesthood.domain import manifests, references, structure
from everesthood.domain.manifests import Surroundings
from everesthood.domain.templates import MAX_REPORTED, amount

LANGUAGES = Languages()
HOST = "tools.acme.svc:8080"


def judged(document, *, around=None, internal=frozenset()):
    manifest = manifests.read(document, LANGUAGES)
    return manifests.judge(manifest, around or Surroundings(), LANGUAGES, internal)


def said(document, **options):
    return [f"{p.path}: {p.message}" for p in judged(document, **options).problems]


def around(template_document=TEMPLATE, *credentials):
    read = manifests.read(template_document, LANGUAGES)
    bound = {c["metadata"]["name"]: manifests.read(c, LANGUAGES).content.spec for c in credentials}
    return Surroundings(template=read.content.spec, credentials=bound)


@pytest.mark.parametrize("document", [TEMPLATE, CREDENTIAL])
def test_a_good_manifest_has_no_problem(document):
    """A manifest that keeps all rules passes without a word."""
    verdict = judged(document)
    assert (verdict.problems, verdict.warnings) == ((), ())


def test_a_good_set_has_no_problem():
    """A template, a credential and an instance that fit one another pass without a word."""
    read = [manifests.read(d, LANGUAGES) for d in (INSTANCE, CREDENTIAL, TEMPLATE)]
    verdicts = manifests.judge_all(read, LANGUAGES)
    assert [(v.problems, v.warnings) for v in verdicts] == [((), ())] * 3


def test_what_is_missing_is_a_warning():
    """GitOps may apply in any order: a missing template or credential is told, not refused."""
    verdict = judged(INSTANCE)

    assert verdict.problems == ()
    assert [w.split(":")[0] for w in verdict.warnings] == [
        "spec.templateRef.name",
        "spec.credentials[0].credentialRef.name",
    ]


def test_another_namespace_is_another_world():
    """A template of the same name in another namespace is not the instance's template."""
    other = copy.deepcopy(TEMPLATE)
    other["metadata"]["namespace"] = "elsewhere"
    read = [manifests.read(d, LANGUAGES) for d in (INSTANCE, CREDENTIAL, other)]
    assert "there is no AgentTemplate summary yet" in manifests.judge_all(read, LANGUAGES)[0].warnings[0]


def test_two_documents_of_one_name_are_refused():
    """The second document of the same kind, namespace and name is told."""
    read = [manifests.read(d, LANGUAGES) for d in (TEMPLATE, CREDENTIAL, TEMPLATE)]
    verdicts = manifests.judge_all(read, LANGUAGES)

    assert [len(v.problems) for v in verdicts] == [0, 0, 1]
    assert verdicts[2].problems[0].message == "AgentTemplate summary is there twice"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": {"limit": "x"}}, Reason.CONFIG_INVALID),
        ({"credentials": []}, Reason.CREDENTIAL_NOT_BOUND),
        ({"plan": "gold"}, Reason.INVALID_SPEC),
        ({"schedules": [{"name": "a", "cron": "0 25 * * *"}]}, Reason.INVALID_SPEC),
    ],
)
def test_an_instance_that_contradicts_its_template_has_a_reason(change, reason):
    """Each refusal carries its reason of the catalogue."""
    verdict = judged(instance(**change), around=around(TEMPLATE, CREDENTIAL))
    assert [p.reason for p in verdict.problems] == [reason]


def test_a_schedules_input_must_match_the_template():
    """What runs by itself is held against the input schema before it is accepted, while that is known."""
    picky = template(
        inputSchema={"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}}
    )
    nightly = {"name": "a", "cron": "0 6 * * *"}
    bare, good = instance(schedules=[nightly]), instance(schedules=[{**nightly, "input": {"id": "7"}}])

    refused = judged(bare, around=around(picky, CREDENTIAL))
    assert [(p.path, p.reason) for p in refused.problems] == [
        ("spec.schedules[0].input", Reason.INPUT_INVALID)
    ]
    assert judged(good, around=around(picky, CREDENTIAL)).problems == ()
    assert judged(bare).problems == ()


def test_a_pinned_instance_is_not_held_against_the_newest_template():
    """An instance on an older revision keeps the config that fits it."""
    pinned = instance(updatePolicy="Manual", revision="0123456789abcdef", config={"old": True})
    assert judged(pinned, around=around(TEMPLATE, CREDENTIAL)).problems == ()


def test_a_template_without_plans_and_slots_says_only_what_is_wrong():
    """There is no list of alternatives where there is none."""
    bare = template(credentials=[], plans=[], steps=[{"name": "a", "transform": {"value": "1"}}], output=None)
    bare["spec"].pop("output")
    assert said(INSTANCE, around=around(bare)) == [
        "spec.credentials[0].slot: template summary has no credential slot key",
        "spec.plan: template summary has no plan free",
    ]


def test_a_credential_for_all_or_for_some():
    """An empty list allows every instance, a list only those that it names."""
    assert judged(INSTANCE, around=around(TEMPLATE, credential(allowedInstances=["daily"]))).problems == ()
    refused = judged(INSTANCE, around=around(TEMPLATE, credential(allowedInstances=["other"])))
    assert [p.reason for p in refused.problems] == [Reason.CREDENTIAL_NOT_ALLOWED]


def test_a_host_inside_the_cluster_needs_both_leaves():
    """A cluster-internal host passes only if the template lists it and the platform allows it."""
    steps = [{"name": "a", "http": {"url": f"http://{HOST}/"}}]
    inside = template(steps=steps, egress={"hosts": [HOST]}, credentials=[])
    inside["spec"].pop("output")
    unlisted = template(steps=steps, egress={"hosts": []}, credentials=[])
    unlisted["spec"].pop("output")

    assert len(judged(inside).problems) == 2
    assert judged(inside, internal=frozenset({HOST})).problems == ()
    assert said(unlisted, internal=frozenset({HOST})) == [
        f"spec.steps[0].http.url: add {HOST} to spec.egress.hosts"
    ]
    assert judged(credential(hosts=[HOST]), internal=frozenset({HOST})).problems == ()
    assert [p.reason for p in judged(credential(hosts=[HOST])).problems] == [Reason.ADDRESS_REFUSED]


def test_known_slots_are_named():
    """A wrong slot name is answered with the right ones."""
    wrong = template()
    wrong["spec"]["steps"][1]["llm"]["credential"] = "token"
    assert said(wrong) == ["spec.steps[1].llm.credential: spec.credentials has no slot token; there are key"]


def test_all_that_is_wrong_is_told_at_once_but_not_without_end():
    """A person sees every fault in one go, and a hostile template costs little."""
    steps = [{"name": f"s{i}", "transform": {"value": "a + b"}} for i in range(50)]
    many = template(steps=steps)
    many["spec"].pop("output")
    found = judged(many).problems
    assert len(found) == MAX_REPORTED


@pytest.mark.parametrize(
    ("needs", "circle"),
    [
        ({"a": ["b"], "b": ["a"]}, "a → b → a"),
        ({"a": [], "b": ["c"], "c": ["d"], "d": ["b"]}, "b → c → d → b"),
        ({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}, ""),
        ({"a": ["a"]}, ""),
    ],
)
def test_circles_are_found_and_diamonds_are_not(needs, circle):
    """Steps that wait for each other are shown as a circle."""
    assert " → ".join(references._cycle(needs)) == circle


@pytest.mark.parametrize(
    ("quantity", "number"),
    [("100m", "0.100"), ("2", "2"), ("1Gi", str(2**30)), ("0.5", "0.5"), ("3k", "3000"), ("1M", "1000000")],
)
def test_quantities_compare_as_numbers(quantity, number):
    """Units of Kubernetes are understood."""
    assert str(amount(quantity).normalize()) == str(type(amount("1"))(number).normalize())


@pytest.mark.parametrize("document", [{}, {"kind": []}, {"apiVersion": 1}, {"metadata": "x"}])
def test_a_document_that_is_hardly_one_is_refused(document):
    """The least manifest gets a sentence."""
    assert said(document) == ["apiVersion: must be agents.everesthood.io/v1alpha1"]


def test_only_our_group_is_ours():
    """Other kinds in the same file are none of our business."""
    assert manifests.is_ours({"apiVersion": "agents.everesthood.io/v9"})
    assert not manifests.is_ours({"apiVersion": "agents.everesthood.io.example.com/v1"})
    assert not manifests.is_ours({"apiVersion": "v1"})
    assert not manifests.is_ours(["x"])
    assert not manifests.is_ours(None)


def test_nesting_without_end_is_refused():
    """A document that is nested too deeply is refused before anything looks into it."""
    deep: object = {}
    for _ in range(5000):
        deep = [deep]
    document = template()
    document["spec"]["inputSchema"] = {"enum": deep}
    assert said(document) == ["spec: is nested more than 100 levels deep"]


def test_defaults_are_those_of_the_schema():
    """A manifest is judged as the API server would store it."""
    content = manifests.read(TEMPLATE, LANGUAGES).content
    assert content.spec.worker.slots == 20
    assert content.spec.steps[0].timeout_seconds == 300
    assert "worker" not in TEMPLATE["spec"]


def test_null_is_as_good_as_nothing():
    """A null takes the default, drops an optional field, and leaves a required one missing."""
    assert judged(template(worker=None, description=None, displayName="A")).problems == ()
    assert said(template(displayName=None)) == ["spec.displayName: is required"]
    assert said(TEMPLATE | {"spec": None}) == ["spec: is required"]
    assert said(template(steps=[None])) == ["spec.steps[0]: must be an object, not nothing"]


def test_a_rule_that_cannot_be_computed_counts_as_broken():
    """A schema rule never passes because it failed."""
    schema = {"x-kubernetes-validations": [{"rule": "self.missing", "message": "needs missing"}]}
    found = list(structure.rule_problems(schema, {"a": 1}, "spec", LANGUAGES))
    assert [(p.path, p.message) for p in found] == [("spec", "needs missing")]


def test_an_unknown_complaint_is_passed_on():
    """A complaint without a sentence of its own keeps the words that it came with."""
    assert structure._bound("new_kind", {}, {"msg": "Something else"}) == "Something else"
    assert structure._at_least(2) == "must be at least 2 long"
    assert structure._kind_of(None) == "nothing"


def test_a_field_of_nothing_is_not_a_field():
    """An unknown field below an unknown place still gets an answer."""
    assert structure._unknown(AgentTemplate, ("spec", "nowhere", "x")) == "is not a field"
    assert structure._unknown(AgentTemplate, ("spec", "displayName", "x")) == "is not a field"


WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=10,
)
PLACES = st.sampled_from(
    ["displayName", "steps", "egress", "credentials", "worker", "plans", "inputSchema", "output", "queue"]
)


@settings(max_examples=150)
@given(PLACES, WILD)
def test_no_value_anywhere_breaks_the_judge(place, value):
    """Whatever stands in a field, the answer is a verdict."""
    verdict = judged(template(**{place: value}))
    assert all(p.message for p in verdict.problems)


@settings(max_examples=60)
@given(st.sampled_from(["templateRef", "config", "credentials", "workers", "schedules"]), WILD)
def test_no_value_breaks_the_judge_of_instances(place, value):
    """Whatever stands in a field of an instance, the answer is a verdict."""
    judged(instance(**{place: value}), around=around(TEMPLATE, CREDENTIAL))
