"""The demo, as far as it can be judged without a cluster."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from demo.bed import EXPENSES_IMAGE
from demo.installation import IMAGE, Installation
from demo.tools import Tools
from tests.cluster import containers, leftovers
from tests.cluster.imagestore import Image
from tests.cluster.settings import OPERATOR_IMAGE, Layout

FIRST, SECOND = "sha256:" + "a" * 64, "sha256:" + "b" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded(Tools):
    """Programs that only note what they are asked to do."""

    calls: list[tuple[object, ...]] = field(default_factory=list)

    def _run(self, argv, *, stdin=None, timeout):
        self.calls.append((*argv, stdin))
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
