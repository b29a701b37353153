"""Children: names, digests, what is asked for, and when there is nothing to apply."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everesthood.adapters.kubernetes.cache import live_of
from everesthood.apis import names
from everesthood.apis.v1alpha1.instance import AgentInstanceSpec
from everesthood.apis.v1alpha1.template import AgentTemplateSpec
from everesthood.domain import children, revisions, workers
from everesthood.domain.observed import Key, Kind, Live

OWNER = Live(key=Key(Kind.INSTANCE, "acme", "hello"), uid="u1", resource_version=1, generation=1)
TEMPLATE = Live(key=Key(Kind.TEMPLATE, "acme", "greeter"), uid="t1", resource_version=1, generation=3)
SITE = workers.Site(
    namespace="everesthood-system", gateway_url="http://gateway:8080", gateway_port=8080, redis_port=6379,
    image="everesthood:1", blocked_cidrs=("10.0.0.0/8",),
)  # fmt: skip
CONTENT = {"displayName": "G", "steps": [{"name": "a", "transform": {"value": "1"}}]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def spec(**changes):
    return AgentInstanceSpec.model_validate({"templateRef": {"name": "greeter"}, **changes})


def content(**changes):
    return AgentTemplateSpec.model_validate({**CONTENT, **changes})


def as_stored(child, **meta):
    """Return the child as the API server would hand it back."""
    body = json.loads(json.dumps(child.body))
    body["metadata"] |= {"uid": "c1", "resourceVersion": "7", "generation": 1, **meta}
    return live_of(child.key.kind, body)


def deployment(template=None, site=SITE, **changes):
    wanted = spec(**changes)
    return workers.deployment(
        OWNER,
        wanted,
        revision="0123456789abcdef",
        template=template or content(),
        site=site,
        replicas=wanted.workers.replicas,
    )


def test_a_child_belongs_to_its_owner():
    """Every child carries the owner as its controller, our labels, and the digest of what was asked for."""
    child = workers.service_account(OWNER, "greeter")
    meta = child.body["metadata"]

    assert meta["ownerReferences"] == [
        {"apiVersion": names.API_VERSION, "kind": "AgentInstance", "name": "hello", "uid": "u1",
         "controller": True, "blockOwnerDeletion": True}
    ]  # fmt: skip
    assert meta["labels"][names.LABEL_MANAGED_BY] == "everesthood"
    assert meta["annotations"] == {names.ANNOTATION_DESIRED_HASH: child.hash}
    assert child.content == {"automountServiceAccountToken": False}


def test_a_stored_child_is_as_asked():
    """What was applied and came back is left alone, whatever others added to it."""
    child = deployment()
    live = as_stored(child)
    grown = json.loads(live.content)
    grown["spec"]["template"]["spec"]["schedulerName"] = "default-scheduler"
    live = replace(live, content=json.dumps(grown).encode())

    assert children.is_as_asked(child, live, settled=None)


@pytest.mark.parametrize(
    "change",
    [
        {"owner": "somebody-else"},
        {"labels": {}},
        {"annotations": {}},
        {"content": b'{"spec": {"replicas": 3}}'},
    ],
)
def test_a_changed_child_is_not_as_asked(change):
    """A child whose owner, labels, digest or content differ is applied again."""
    child = deployment()

    assert not children.is_as_asked(child, replace(as_stored(child), **change), settled=None)


def test_what_the_api_server_rewrites_is_asked_for_once():
    """A value that is stored in another form is not applied for ever; a later edit is noticed."""
    child = deployment()
    live = replace(as_stored(child), content=b'{"spec": {"replicas": "one"}}')

    assert not children.is_as_asked(child, live, settled=None)
    assert children.is_as_asked(child, live, settled=(1, child.hash))
    assert not children.is_as_asked(child, replace(live, generation=2), settled=(1, child.hash))


@given(JSON)
def test_everything_covers_itself(value):
    """Equal values differ in nothing."""
    assert children.covers(value, value)


@given(st.dictionaries(st.text(max_size=5), JSON), st.dictionaries(st.text(max_size=5), JSON))
def test_additions_of_others_do_not_matter(wanted, added):
    """An object with more fields than wanted still is what was wanted."""
    assert children.covers({**added, **wanted}, wanted)


@pytest.mark.parametrize(
    ("live", "wanted"),
    [({"a": 1}, {"a": 2}), ({}, {"a": 1}), ([1], [1, 2]), ([1, 2], [1]), (None, {"a": 1}), ("x", ["x"])],
)
def test_what_is_missing_is_missed(live, wanted):
    """A value that differs, is absent, or is one of another number is a difference."""
    assert not children.covers(live, wanted)


def test_an_empty_value_may_be_left_out_by_the_api_server():
    """The API server drops empty strings, zeroes and empty lists of optional fields."""
    assert children.covers({}, {"a": "", "b": 0, "c": False, "d": []})


@given(st.text("abcdefghij-.", min_size=1, max_size=300), st.integers(20, 63))
def test_names_fit(name, limit):
    """A name never exceeds its limit, and a name that fits is left as it is."""
    made = children.short(name, limit=limit)

    assert len(made) <= limit
    assert made == name or len(name) > limit


def test_long_names_stay_apart():
    """Two long names with one beginning become two names."""
    assert children.short("a" * 80 + "b") != children.short("a" * 80 + "c")


def test_a_digest_is_of_the_content_not_of_its_order():
    """The same content has the same digest however its keys are ordered; another content another."""
    assert children.digest({"a": 1, "b": {"c": 2, "d": 3}}) == children.digest(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert children.digest({"a": 1}) != children.digest({"a": 2})
    assert len(children.digest({})) == 16


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1000m", "1"), ("1500m", "1500m"), ("0.5", "500m"), ("50m", "50m"), ("2", "2"), ("2000", "2k"),
        ("1024Mi", "1Gi"), ("0.5Gi", "512Mi"), ("256Mi", "256Mi"), ("1.5Ki", "1536"), ("1000M", "1G"),
        ("1500M", "1500M"), ("0", "0"), ("0.00001", "0.00001"),
    ],
)  # fmt: skip
def test_quantities_are_written_as_the_api_server_stores_them(text, canonical):
    """A quantity compares equal to what comes back."""
    assert workers.quantity(text) == canonical


def test_workers_are_restricted():
    """Worker pods satisfy the restricted pod security standard and hold no API token."""
    pod = deployment().content["spec"]["template"]["spec"]
    container = pod["containers"][0]
    token = pod["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]

    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert token == {"audience": "everesthood-gateway", "expirationSeconds": 600, "path": "token"}
    assert pod["terminationGracePeriodSeconds"] == SITE.grace_seconds + 10
    assert set(container["resources"]) == {"requests", "limits"}


def test_an_author_sets_variables_but_not_ours():
    """The template's environment reaches the worker; what steers the worker itself is not the author's."""
    env = [
        {"name": "TONE", "value": "warm"},
        {"name": "EMPTY", "value": ""},
        {"name": "EVERESTHOOD_GATEWAY_URL", "value": "http://evil"},
        {"name": "EVERESTHOOD_ANYTHING", "value": "x"},
        {"name": "HOME", "value": "/root"},
    ]
    made = deployment(content(worker={"image": "mine:1", "env": env}))
    container = made.content["spec"]["template"]["spec"]["containers"][0]
    values = {e["name"]: e.get("value") for e in container["env"]}

    assert container["image"] == "mine:1"
    assert (values["TONE"], values["EMPTY"], values["HOME"]) == ("warm", None, "/tmp")
    assert values["EVERESTHOOD_GATEWAY_URL"] == "http://gateway:8080"
    assert "EVERESTHOOD_ANYTHING" not in values
    assert len(container["env"]) == len(values)


def test_config_and_bindings_replace_pods():
    """A change of config or bindings changes the pod template; a change of replicas does not."""
    pods = [
        deployment(**changes).content["spec"]["template"]
        for changes in (
            {},
            {"config": {"a": 1}},
            {"credentials": [{"slot": "s", "credentialRef": {"name": "c"}}]},
        )
    ]

    assert len({json.dumps(p, sort_keys=True) for p in pods}) == 3
    assert deployment(workers={"replicas": 3}).content["spec"]["template"] == pods[0]


def test_the_wall_lets_through_what_workers_need():
    """Egress is DNS, gateway, broker, the outside, and what the platform opens; ingress is metrics only."""
    peer = {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]}
    made = workers.network_policy(OWNER, "greeter", replace(SITE, internal_peers=(peer,))).content["spec"]
    open_site = workers.network_policy(OWNER, "greeter", replace(SITE, blocked_cidrs=())).content["spec"]

    assert made["policyTypes"] == ["Ingress", "Egress"]
    assert [rule.get("ports", [{}])[0].get("port") for rule in made["egress"]] == [53, 8080, 6379, None, None]
    assert made["egress"][3]["to"][0]["ipBlock"] == {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}
    assert made["egress"][4] == peer
    assert open_site["egress"][3]["to"][0]["ipBlock"] == {"cidr": "0.0.0.0/0"}
    assert made["podSelector"] == {"matchLabels": {names.LABEL_INSTANCE: "hello"}}
    assert [rule["ports"][0]["port"] for rule in made["ingress"]] == [9090]


def test_whoever_the_platform_names_may_scrape_workers():
    """Metrics are open to the installation's namespace and to the peers that it names, to nobody else."""
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}}
    own = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "everesthood-system"}}}
    site = replace(SITE, metrics_peers=(prometheus,))

    closed = workers.network_policy(OWNER, "greeter", SITE).content["spec"]["ingress"]
    opened = workers.network_policy(OWNER, "greeter", site).content["spec"]["ingress"]

    assert [rule["from"] for rule in closed] == [[own]]
    assert [rule["from"] for rule in opened] == [[own, prometheus]]
    assert opened[0]["ports"] == [{"port": 9090, "protocol": "TCP"}]


def test_a_site_may_ask_for_priority_and_simulated_nodes():
    """The installation's own wishes stand in every worker pod."""
    site = replace(SITE, priority_class="agents", tolerates_simulated_nodes=True)
    pod = deployment(site=site).content["spec"]["template"]["spec"]

    assert pod["priorityClassName"] == "agents"
    assert (pod["nodeSelector"], pod["tolerations"][0]["key"]) == ({"type": "fake"}, "fake")


def test_workers_run_where_the_platform_says():
    """Nodes, tolerations and pull Secrets of the installation stand in worker pods; without any, no field."""
    tolerations = ({"key": "agents", "operator": "Exists"},)
    chosen = workers.Scheduling(
        node_selector={"pool": "agents"}, tolerations=tolerations, image_pull_secrets=({"name": "pull"},)
    )
    plain = deployment().content["spec"]["template"]["spec"]
    placed = deployment(site=replace(SITE, scheduling=chosen)).content["spec"]["template"]["spec"]
    added = {name: value for name, value in placed.items() if name not in plain}

    assert added == {
        "nodeSelector": {"pool": "agents"},
        "tolerations": list(tolerations),
        "imagePullSecrets": [{"name": "pull"}],
    }
    assert {name: value for name, value in placed.items() if name in plain} == plain


def test_a_content_is_kept_under_its_digest():
    """The ControllerRevision's name and label say the digest; its data is the content."""
    made = revisions.snapshot(TEMPLATE, CONTENT)
    live = as_stored(made)

    assert made.key.name == f"greeter-{children.digest(CONTENT)[:10]}"
    assert live.revision == children.digest(CONTENT)
    assert json.loads(revisions.content(live)) == CONTENT
    assert made.content["revision"] == 3


def kept(*numbers):
    return [
        as_stored(revisions.snapshot(replace(TEMPLATE, generation=n), {**CONTENT, "description": str(n)}))
        for n in numbers
    ]


def test_old_revisions_go_when_nothing_refers_to_them():
    """The newest few are kept, and every one in use; the rest is removed."""
    everything = kept(*range(1, 15))
    oldest = everything[0].revision
    gone = revisions.superfluous(everything, {oldest}, history=3)

    assert {json.loads(g.content)["revision"] for g in gone} == set(range(2, 12))


def test_a_pin_may_be_the_beginning_of_a_digest():
    """A revision is found by its digest or its beginning, if that is the beginning of one only."""
    everything = kept(1, 2, 3)
    digest = everything[1].revision

    assert revisions.find(digest, everything) == digest
    assert revisions.find(digest[:10], everything) == digest
    assert revisions.find("zz", everything) is None
    assert revisions.find("", everything) is None
