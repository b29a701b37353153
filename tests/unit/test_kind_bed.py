"""What the kind provider asks of Docker and kind, and how it reaches into the node."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster import kind, packages
from tests.cluster.kind import KindCluster
from tests.cluster.settings import BASE_IMAGE, TestBedError

POD = "0f3c1d2e-1111-2222-3333-444455556666"
# Answers what a test told it, and runs what is to be run in the node here, with a /proc of the test's.
PROGRAM = """#!{python}
import json, os, sys
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
with open({folder!r} + "/calls", "a") as calls:
    calls.write(json.dumps([name, *words]) + "\\n")
if words[:1] == ["exec"] and words[2] == "bash":
    inside = [word if word != "/proc" else {folder!r} + "/proc" for word in words[2:]]
    os.execvp(inside[0], inside)
for said, answer, code in json.load(open({folder!r} + "/told")):
    if said in " ".join([name, *words]):
        print(answer)
        sys.exit(code)
"""


class Machine:
    """A machine whose docker, kind, kubectl and helm do as they are told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "proc").mkdir()
        (folder / "calls").touch()
        self.tell()
        for name in ("docker", "kind", "kubectl", "helm"):
            program = folder / name
            program.write_text(PROGRAM.format(python=sys.executable, folder=str(folder)))
            program.chmod(0o755)

    def tell(self, *answers: tuple[str, str, int]) -> None:
        """Set the answers: a part of the command, what it prints, and its exit code."""
        (self.folder / "told").write_text(json.dumps(answers))

    def calls(self) -> list[str]:
        return [" ".join(json.loads(line)) for line in (self.folder / "calls").read_text().splitlines()]

    def process(self, pid: int, *, cgroup: str, command: str = "python3") -> None:
        """Show a process in the node."""
        folder = self.folder / "proc" / str(pid)
        folder.mkdir()
        (folder / "cgroup").write_text(f"0::{cgroup}\n")
        (folder / "cmdline").write_bytes(command.encode() + b"\0")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("EVERESTHOOD_CACHE", str(tmp_path / "cache"))
    return Machine(tmp_path)


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "60"]) as child:
        yield child
        child.kill()


def test_a_new_cluster_has_the_image_that_tests_run(machine: Machine):
    """A pod of a test starts without a pull: its image is loaded as soon as the cluster is there."""
    machine.tell(("docker version", "linux/amd64", 0))

    KindCluster().start()

    calls = machine.calls()
    created = next(n for n, call in enumerate(calls) if call.startswith("kind create cluster"))
    loaded = next(n for n, call in enumerate(calls) if call.startswith("kind load image-archive"))
    assert created < loaded
    saved = next(call for call in calls if call.startswith("docker image save"))
    assert saved.endswith(f"--platform linux/amd64 {BASE_IMAGE}")


def test_an_older_docker_saves_without_a_platform(machine: Machine):
    """Where Docker does not know the choice of a platform, the image comes to the node all the same."""
    machine.tell(("docker version", "linux/amd64", 0), ("--platform", "unknown flag", 125))

    KindCluster().load_image(BASE_IMAGE)

    saves = [call for call in machine.calls() if call.startswith("docker image save")]
    assert ["--platform" in call for call in saves] == [True, False]
    assert machine.calls()[-1].startswith("kind load image-archive")


def test_the_host_is_found_at_the_gateway(machine: Machine):
    """A webhook on the host is registered at the address that the node's network leads to."""
    machine.tell(("docker inspect", "172.18.0.1 ", 0))

    assert KindCluster().host_address == "172.18.0.1"


def test_a_network_without_a_gateway_is_said(machine: Machine):
    """Where the node has no way to the host, the error says so instead of an empty address."""
    machine.tell(("docker inspect", "", 0))

    with pytest.raises(TestBedError, match="no gateway"):
        _ = KindCluster().host_address


@pytest.mark.parametrize("spelling", [POD, POD.replace("-", "_")])
def test_a_pod_is_killed_in_the_node(machine: Machine, sleeper: "subprocess.Popen[bytes]", spelling: str):
    """All processes of the pod end by the signal, however the cgroup spells its uid."""
    machine.process(sleeper.pid, cgroup=f"/kubelet.slice/kubepods-pod{spelling}.slice/cri-containerd-1.scope")

    KindCluster().signal_pod(POD, signal.SIGKILL)

    assert sleeper.wait(10) == -signal.SIGKILL


def test_strangers_and_the_sandbox_are_left_alone(machine: Machine, sleeper: "subprocess.Popen[bytes]"):
    """A pod without a process of its own is an error, and nobody else gets its signal."""
    machine.process(sleeper.pid, cgroup=f"/pod{POD}", command="/pause")

    with pytest.raises(TestBedError, match="has no process"):
        KindCluster().signal_pod(POD, signal.SIGKILL)

    assert sleeper.poll() is None


def test_the_api_server_is_killed_by_the_runtime(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    """The API server gets no time to say goodbye, and its successor is waited for."""
    names = iter(("old", "old", "", "new"))
    monkeypatch.setattr(KindCluster, "_apiserver", lambda _: next(names))

    KindCluster().restart_apiserver()

    assert f"docker exec {kind.NODE_CONTAINER} crictl stop --timeout 0 old" in machine.calls()
    assert "get --raw /readyz" in machine.calls()[-1]
    assert next(names, None) is None


def test_a_program_from_elsewhere_is_not_installed_again(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    """A runc that came with Docker serves as well, wherever on PATH it is."""
    (machine.folder / "runc").symlink_to(machine.folder / "docker")
    monkeypatch.setattr(packages, "PACKAGES", {"runc": "runc", "absent": "no-such-program"})

    assert packages.missing() == ["absent"]
