"""The demo, as far as it can be judged without a cluster."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from demo import __main__ as demo
from demo import bed
from demo.bed import EXPENSES_IMAGE
from demo.guest import KINDS, MARK, NAMESPACES, Guest
from demo.installation import IMAGE, NAMESPACE, STORES, Installation
from demo.tools import Tools
from tests.cluster import containers, current, leftovers
from tests.cluster.current import CurrentCluster
from tests.cluster.imagestore import Image
from tests.cluster.settings import OPERATOR_IMAGE, POSTGRES_IMAGE, VALKEY_IMAGE, Layout, TestBedError

FIRST, SECOND = "sha256:" + "a" * 64, "sha256:" + "b" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded(Tools):
    """Programs that only note what they are asked to do."""

    calls: list[tuple[object, ...]] = field(default_factory=list)

    def _run(self, argv, *, stdin=None, timeout):
        self.calls.append((*argv, stdin))
        if argv[1] == "kustomize":
            return f"image: {IMAGE}\n"
        return "{}"


def install(**images):
    """Return what a demo with these images asks for."""
    nowhere = Path("/nowhere")
    tools = Recorded(kubeconfig=nowhere, kubectl_path=nowhere, helm_path=nowhere, environment={})
    installation = Installation(tools=tools, **images)
    installation.install()
    installation.apply_samples()
    return tools.calls


class Node:
    """Containerd's image list of a node."""

    def __init__(self):
        self.images: dict[str, str] = {}
        self.in_use: list[str] = []

    def build(self, digest):
        self.images[OPERATOR_IMAGE] = digest
        return Image(name=OPERATOR_IMAGE, descriptor={"digest": digest})

    def ctr(self, _, *argv):
        match argv:
            case ("images", "ls"):
                return "\n".join(["REF TYPE DIGEST", *(f"{n} manifest {d}" for n, d in self.images.items())])
            case ("containers", "ls"):
                return "\n".join(["CONTAINER IMAGE RUNTIME", *(f"c1 {n} runc" for n in self.in_use)])
            case ("images", "tag", name, other):
                self.images[other] = self.images[name]
            case ("images", "rm", *names):
                for name in names:
                    del self.images[name]
        return ""


def test_pods_are_replaced_when_their_image_is_another_and_only_then():
    """Asked again with the same image, the demo asks for the same pods; after a rebuild it asks for new ones."""
    first = {IMAGE: f"{IMAGE}-aaaa", EXPENSES_IMAGE: f"{EXPENSES_IMAGE}-cccc"}
    rebuilt = {**first, EXPENSES_IMAGE: f"{EXPENSES_IMAGE}-dddd"}
    once, again, after = install(images=first), install(images=dict(first)), install(images=rebuilt)
    changed = [(a, b) for a, b in zip(once, after, strict=True) if a != b]

    assert IMAGE == OPERATOR_IMAGE
    assert once == again
    assert 'image.tag="dev-aaaa"' in once[0]
    assert any(f"image: {EXPENSES_IMAGE}-cccc\n" in str(call[-1]) for call in once)
    assert len(changed) == 1
    assert changed[0][0][-1].replace("dev-cccc", "dev-dddd") == changed[0][1][-1]


def test_an_image_is_named_by_its_content(monkeypatch):
    """One content has one name on the node; an earlier content's name stays while a container uses it."""
    node, layout = Node(), Layout(state=Path("/nowhere"))
    monkeypatch.setattr(containers, "ctr", node.ctr)
    exact = [f"{OPERATOR_IMAGE}-{'a' * 12}", f"{OPERATOR_IMAGE}-{'b' * 12}"]

    assert containers.name_by_content(layout, node.build(FIRST)) == exact[0]
    assert containers.name_by_content(layout, node.build(FIRST)) == exact[0]
    node.in_use = [exact[0]]
    assert containers.name_by_content(layout, node.build(SECOND)) == exact[1]
    assert node.images == {OPERATOR_IMAGE: SECOND, exact[0]: FIRST, exact[1]: SECOND}
    node.in_use = [exact[1]]
    assert containers.name_by_content(layout, node.build(SECOND)) == exact[1]
    assert set(node.images) == {OPERATOR_IMAGE, exact[1]}


@pytest.mark.parametrize("neighbour", [False, True])
def test_the_last_cluster_takes_the_folder_of_states_with_it(tmp_path, monkeypatch, neighbour):
    """After `make demo-down` no empty folder stays behind, and a neighbour's state stays untouched."""
    states = tmp_path / "everesthood"
    (states / "cluster").mkdir(parents=True)
    if neighbour:
        (states / "second").mkdir()
    monkeypatch.setattr(leftovers, "STATES", states)
    monkeypatch.setattr(leftovers.network, "remove", lambda _: None)
    layout = Layout(state=states / "cluster", link="nothing0")

    leftovers.remove(layout)

    assert not layout.state.exists()
    assert states.exists() is neighbour


NOWHERE = Path("/nowhere")
AGENT = KINDS[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Theirs(Tools):
    """kubectl and helm in somebody's cluster: namespaces with their labels, types, and agents by namespace."""

    kubeconfig: Path = NOWHERE
    kubectl_path: Path = Path("kubectl")
    helm_path: Path = Path("helm")
    environment: dict[str, str] = field(default_factory=dict)
    namespaces: dict[str, dict[str, str]] = field(default_factory=lambda: {"default": {}, "shop": {}})
    types: list[str] = field(default_factory=lambda: ["carts.shop.example"])
    agents: list[tuple[str, str]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    """What was changed, in order."""

    def _run(self, argv, *, stdin=None, timeout):
        words = [word for word in argv if not word.startswith("--timeout") and word not in ("-o", "json")]
        match words:
            case ["kubectl", "get", "namespaces"]:
                return listed({"name": name} for name in self.namespaces)
            case ["kubectl", "get", "namespaces", "-l", label]:
                marked = dict([label.split("=")])
                return listed(
                    {"name": n} for n, labels in self.namespaces.items() if labels.items() >= marked.items()
                )
            case ["kubectl", "get", "crd"]:
                return listed({"name": name} for name in self.types)
            case ["kubectl", "get", kinds, "-A"]:
                assert set(kinds.split(",")) <= set(self.types), "kubectl knows no such type"
                return listed({"namespace": space, "name": name} for space, name in self.agents)
            case ["kubectl", "create", "-f", "-"]:
                made = json.loads(stdin)["metadata"]
                self.namespaces[made["name"]] = made["labels"]
                self.done.append(f"namespace {made['name']} made")
                return ""
        self.done.append(" ".join(words))
        return ""


def listed(metadata):
    """Return a List as kubectl prints it."""
    return json.dumps({"items": [{"metadata": each} for each in metadata]})


def demonstrated(**more):
    """Return a cluster of somebody's in which the demo is."""
    theirs = Theirs(**more)
    Guest(theirs).arrive()
    theirs.types.extend(KINDS)
    theirs.done.clear()
    return theirs


def test_the_demo_leaves_a_cluster_of_somebodys_as_it_was():
    """Agents go while the controller is there, then the chart, the types and the namespaces; nothing else is named."""
    theirs = demonstrated(agents=[("acme", "expense-check"), ("acme", "model-key")])

    Guest(theirs).leave()

    assert theirs.done == [
        *(f"kubectl -n acme delete {kind} --all" for kind in KINDS),
        f"helm uninstall everesthood --namespace {NAMESPACE} --ignore-not-found --wait 5m",
        *(f"kubectl delete crd {kind} --ignore-not-found" for kind in KINDS),
        *(f"kubectl delete namespace {name} --ignore-not-found" for name in ("standin", "acme", NAMESPACE)),
    ]


def test_what_the_demo_did_not_make_it_does_not_remove():
    """A cluster with an Everesthood of its own, in namespaces that bear no mark, loses nothing."""
    theirs = Theirs(namespaces={name: {} for name in NAMESPACES}, types=[*KINDS], agents=[("acme", "orders")])

    Guest(theirs).leave()

    assert theirs.done == []


def test_a_marked_sample_alone_takes_no_types_along():
    """Where the installation is somebody else's, only the namespace that bears the mark goes."""
    theirs = Theirs(
        namespaces={NAMESPACE: {}, "acme": {MARK: "true"}}, types=[*KINDS], agents=[("shop", "orders")]
    )

    Guest(theirs).leave()

    assert theirs.done == ["kubectl delete namespace acme --ignore-not-found"]


def test_agents_outside_of_the_demo_keep_its_everesthood():
    """Removing the types would remove everyone's agents, so the demo stays until those are gone."""
    theirs = demonstrated(agents=[("acme", "expense-check"), ("shop", "orders")])

    with pytest.raises(TestBedError, match="shop/orders"):
        Guest(theirs).leave()

    assert theirs.done == []


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ({"namespaces": {"acme": {}}}, "namespace acme that the demo did not make"),
        ({"namespaces": {NAMESPACE: {}}}, f"namespace {NAMESPACE} that"),
        ({"types": [AGENT]}, "Everesthood is or was installed"),
    ],
)
def test_the_demo_takes_over_nothing_of_somebodys(there, named):
    """A namespace or a type that is there already is refused in a sentence, before anything is made."""
    theirs = Theirs(**there)

    with pytest.raises(TestBedError, match=named):
        Guest(theirs).arrive()

    assert theirs.done == []


def test_the_demo_comes_back_to_namespaces_of_its_own():
    """A second `make demo` finds its marks and makes nothing; the first marks each namespace as it makes it."""
    theirs = demonstrated()

    Guest(theirs).arrive()

    assert theirs.done == []
    assert [theirs.namespaces[name] for name in NAMESPACES] == [{MARK: "true"}] * len(NAMESPACES)


@pytest.fixture
def somebodys(monkeypatch, tmp_path):
    """Choose a cluster of somebody's, as far as programs and kubeconfig go."""
    monkeypatch.setenv("CLUSTER", "current")
    monkeypatch.setenv("CONTEXT", "prod eu")
    monkeypatch.setenv("EVERESTHOOD_CACHE", str(tmp_path))
    monkeypatch.setenv("IMAGES", "registry.example:5000/team/")
    monkeypatch.setattr(current.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(current, "run", lambda *_, **__: "")


@pytest.mark.parametrize("images", [None, "", "https://registry.example/team"])
def test_a_cluster_without_our_images_is_refused_before_it_is_touched(somebodys, monkeypatch, capsys, images):
    """Without a registry to pull from, `make demo` says what to set and asks nothing of the cluster."""
    monkeypatch.setattr("sys.argv", ["demo", "up"])
    monkeypatch.setattr(CurrentCluster, "start", lambda _: pytest.fail("the cluster was touched"))
    monkeypatch.delenv("IMAGES") if images is None else monkeypatch.setenv("IMAGES", images)

    assert demo.main() == 1
    assert "CLUSTER=current needs IMAGES=<registry>/<path>" in capsys.readouterr().err


def test_somebodys_cluster_is_asked_for_no_image_of_the_test_bed(somebodys):
    """Chart, samples and stand-in name images that a registry has; each comes from IMAGES or from upstream."""
    images = bed.load_images(bed.choose_cluster())
    asked = "\n".join(str(word) for call in install(images=images) for word in call)

    assert set(images) == {OPERATOR_IMAGE, EXPENSES_IMAGE, POSTGRES_IMAGE, VALKEY_IMAGE}
    assert set(STORES) == {POSTGRES_IMAGE, VALKEY_IMAGE}
    assert "everesthood.test" not in asked
    for wanted in (
        'image.repository="registry.example:5000/team/everesthood"',
        'image.tag="dev"',
        'postgresql.image="docker.io/library/postgres:17"',
        'redis.image="docker.io/valkey/valkey:8"',
        "image: registry.example:5000/team/expense-check:dev\n",
        "image: registry.example:5000/team/everesthood:dev\n",
    ):
        assert wanted in asked


def test_down_empties_somebodys_cluster_before_it_forgets_how_to_reach_it(somebodys, monkeypatch):
    """`make demo-down` needs no IMAGES, and a refusal leaves the way back in place."""
    monkeypatch.delenv("IMAGES")
    monkeypatch.setattr("sys.argv", ["demo", "down"])
    theirs = demonstrated(agents=[("shop", "orders")])
    monkeypatch.setattr(bed, "tools_of", lambda _: theirs)
    kubeconfig = bed.choose_cluster().kubeconfig

    assert demo.main() == 1
    assert kubeconfig.exists()
    theirs.agents.clear()
    assert demo.main() == 0
    assert theirs.done[-1] == f"kubectl delete namespace {NAMESPACE} --ignore-not-found"
    assert not kubeconfig.exists()


def test_the_demo_says_how_to_remove_it_from_this_cluster(somebodys):
    """The printed command names the cluster that was named, so that it ends this demo and no other."""
    tools = Theirs()

    assert "`make demo-down CLUSTER=current CONTEXT='prod eu'` removes everything." in demo.closing(tools, 1)


def test_those_who_break_things_refuse_somebodys_cluster(somebodys):
    """End-to-end tests and benchmarks are for clusters that end with them."""
    with pytest.raises(TestBedError, match="CLUSTER=current is for the demo"):
        bed.check_own(bed.choose_cluster())
