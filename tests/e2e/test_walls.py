"""The walls: between instances, between a worker and the cluster, and around every secret value."""

import base64
import json
from collections.abc import Callable, Iterator

import httpx2
import pytest
from demo.installation import AGENTS, NAMESPACE, ORGANIZATION, Installation
from demo.tools import Object, Tools
from tests.support.marketplace import Marketplace
from tests.support.pods import weaknesses

CANARIES = ("everesthood-keys", "everesthood-postgresql", "everesthood-redis")
REACH = """\
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 4).close()
    print("open")
except OSError:
    print("shut")
"""


def worker_pod(tools: Tools, instance: str) -> Object:
    label = f"agents.everesthood.io/instance={instance}"
    return tools.items("pods", "-n", ORGANIZATION, "-l", label)[0]


def gateway_token(tools: Tools, instance: str, *, audience: str = "everesthood-gateway") -> str:
    """Return a token as the kubelet gives it to the worker of an instance."""
    pod = worker_pod(tools, instance)
    return tools.kubectl(
        *("-n", ORGANIZATION, "create", "token", pod["spec"]["serviceAccountName"]),
        *("--audience", audience, "--bound-object-kind", "Pod"),
        *("--bound-object-name", pod["metadata"]["name"], "--bound-object-uid", pod["metadata"]["uid"]),
    ).strip()


@pytest.fixture
def gateway(everesthood: Installation) -> Iterator[httpx2.Client]:
    """Return a client at the gateway's port."""
    with (
        everesthood.tools.forwarded(NAMESPACE, "svc/everesthood-gateway", 8080) as port,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client,
    ):
        yield client


def call(client: httpx2.Client, token: str, revision: str, body: Object | None = None) -> httpx2.Response:
    bearer = {"Authorization": f"Bearer {token}"} if token else {}
    headers = {"X-Everesthood-Revision": revision, **bearer}
    return client.post("/v1/work", json=body or {}, headers=headers)


def revision(tools: Tools, instance: str) -> str:
    return str(worker_pod(tools, instance)["metadata"]["labels"]["agents.everesthood.io/revision"])


def test_a_worker_cannot_speak_for_another_instance(
    everesthood: Installation, api: Marketplace, gateway: httpx2.Client
):
    """A worker with a token of its own cannot end or claim a run of another instance."""
    tools = everesthood.tools
    run = api.start("steady", {"key": "wall", "seconds": 8})
    theft = {"finished": [{"run": run, "fence": 1, "outcome": "succeeded", "output": "stolen"}], "want": 5}

    answer = call(gateway, gateway_token(tools, "caller"), revision(tools, "caller"), theft)
    finished = api.finished(run)

    assert answer.status_code == 200
    assert answer.json().get("lost") == [run]
    assert not answer.json().get("assignments")
    assert finished["state"] == "succeeded"
    assert finished["output"] != "stolen"


def test_a_worker_cannot_take_another_revision(everesthood: Installation, gateway: httpx2.Client):
    """The revision that a worker claims for must be the one that its pod was made for."""
    tools = everesthood.tools
    answer = call(gateway, gateway_token(tools, "caller"), revision(tools, "steady"), {"want": 1})

    assert answer.status_code == 403
    assert answer.json()["reason"] == "NotYours"


@pytest.mark.parametrize("kind", ["none", "garbage", "other audience", "not a worker"])
def test_the_gateway_lets_only_workers_in(everesthood: Installation, gateway: httpx2.Client, kind: str):
    """No token, a made-up token, one for another service and one of a person are refused alike."""
    tools = everesthood.tools
    tokens: dict[str, Callable[[], str]] = {
        "none": lambda: "",
        "garbage": lambda: "abc.def.ghi",
        "other audience": lambda: gateway_token(tools, "caller", audience="everesthood-web"),
        "not a worker": lambda: tools.kubectl(
            "-n", ORGANIZATION, "create", "token", "everesthood-cli", "--audience", "everesthood-gateway"
        ).strip(),
    }
    answer = call(gateway, tokens[kind](), revision(tools, "caller"), {"want": 1})

    assert answer.status_code in {401, 403}
    assert answer.json()["reason"] in {"Unauthenticated", "NotYours"}


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "https://kubernetes.default.svc/api",
        "http://everesthood-postgresql.everesthood-system.svc:5432/",
        "http://127.0.0.1:9090/metrics",
    ],
)
def test_a_step_cannot_be_aimed_inside(api: Marketplace, url: str):
    """An address that comes with the input and leads inside is refused when the step runs."""
    finished = api.finished(api.start("caller", {"url": url}))

    assert finished["state"] == "dead"
    assert finished["reason"] == "AddressRefused"  # not HostRefused: the list of hosts is a wall of its own


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("everesthood-gateway.everesthood-system.svc", 8080, "open"),
        ("everesthood-redis.everesthood-system.svc", 6379, "open"),
        ("everesthood-postgresql.everesthood-system.svc", 5432, "shut"),
        ("everesthood-web.everesthood-system.svc", 80, "shut"),
        ("kubernetes.default.svc", 443, "shut"),
    ],
)
def test_a_worker_reaches_only_what_it_must(everesthood: Installation, host: str, port: int, expected: str):
    """Even the author's own code, which no client guards, meets a wall at the network."""
    pod = worker_pod(everesthood.tools, "expense-check")["metadata"]["name"]
    said = everesthood.tools.kubectl(
        *("-n", ORGANIZATION, "exec", "-i", pod, "--", "python3", "-", host, str(port)), stdin=REACH
    )

    assert said.strip() == expected


def test_no_worker_is_weaker_than_restricted(everesthood: Installation):
    """Every worker pod meets restricted pod security and holds no token for the API server."""
    pods = everesthood.tools.items("pods", "-n", ORGANIZATION)

    assert {p["metadata"]["name"]: w for p in pods if (w := weaknesses(p["spec"]))} == {}


def test_no_secret_value_is_anywhere_else(everesthood: Installation, api: Marketplace):
    """After a run with a credential, its value and our own keys are in no log, event, status or answer."""
    tools = everesthood.tools
    run = everesthood.run("support-triage")
    values = {"standin-demo-key"}
    for name in CANARIES:
        data = tools.get("secret", name, "-n", NAMESPACE)["data"]
        values |= {base64.b64decode(value).decode().strip() for value in data.values()}

    found = []
    for place, text in sinks(tools, api, run["id"]):
        found += [(place, value[:4]) for value in values if value in text]

    assert found == []


def sinks(tools: Tools, api: Marketplace, run: str) -> Iterator[tuple[str, str]]:
    """Yield all that people can read: objects, events, logs, metrics and the API's answers."""
    kinds = (
        "pods,deployments,statefulsets,jobs,configmaps,events,networkpolicies,"
        "agenttemplates,agentinstances,agentcredentials,controllerrevisions"
    )
    for namespace in (NAMESPACE, ORGANIZATION):
        yield f"objects of {namespace}", tools.kubectl("get", kinds, "-n", namespace, "-o", "json")
        for pod in tools.items("pods", "-n", namespace):
            name = pod["metadata"]["name"]
            yield f"log of {name}", tools.kubectl("-n", namespace, "logs", name, "--tail=-1")
    yield "run", json.dumps(api.get(run))
    yield "log of the run", api.client.get(f"runs/{run}/log").text
    yield "status", tools.everesthood("status", "-n", ORGANIZATION)


def test_all_samples_are_ready_in_a_restricted_namespace(everesthood: Installation):
    """kubectl get shows every sample Ready, and kubectl describe would show why not."""
    ready = {
        item["metadata"]["name"]: next(
            c["status"] for c in item["status"]["conditions"] if c["type"] == "Ready"
        )
        for item in everesthood.tools.items("agentinstances", "-n", ORGANIZATION)
    }

    assert {ready[name] for name in AGENTS} == {"True"}
