"""The kind provider, against programs that note how they are called: what it asks of Docker and kind."""

import os
from pathlib import Path

import pytest
from tests.cluster.kind import KindCluster

PROGRAM = """#!/bin/sh
echo "$(basename "$0") $*" >> "$NOTES"
case "$*" in
  *"image save"*"$REFUSES"*) exit 1 ;;
  *"crictl ps"*) cat "$NOTES.server" ;;
  *"crictl stop"*) echo second > "$NOTES.server" ;;
  *"image inspect --format {{.Os}}"*) echo linux/amd64 ;;
  *"container inspect"*) echo 172.18.0.1 ;;
esac
"""


class Notes:
    """What was called."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @property
    def lines(self) -> list[str]:
        return self.file.read_text().splitlines()

    def of(self, words: str) -> list[str]:
        return [line for line in self.lines if words in line]


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("docker", "kind", "kubectl", "helm"):
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    notes = tmp_path / "notes"
    Path(f"{notes}.server").write_text("first")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("NOTES", str(notes))
    monkeypatch.setenv("REFUSES", "nothing")
    monkeypatch.setenv("EVERESTHOOD_CACHE", str(tmp_path / "cache"))
    return Notes(notes)


def test_an_image_of_many_platforms_is_given_to_the_node_as_one(notes: Notes):
    """kind asks for all platforms of an image, of which Docker may have but this machine's."""
    KindCluster().load_image("everesthood.test/postgres:17")

    (saved,) = notes.of("docker image save")
    assert "--platform linux/amd64" in saved
    assert saved.endswith("everesthood.test/postgres:17")
    assert len(notes.of("kind load image-archive")) == 1


def test_a_docker_that_cannot_choose_a_platform_loads_all(notes: Notes, monkeypatch: pytest.MonkeyPatch):
    """Before version 28 Docker cannot save one platform of an image."""
    monkeypatch.setenv("REFUSES", "--platform")
    KindCluster().load_image("everesthood.test/postgres:17")

    assert notes.of("kind load docker-image everesthood.test/postgres:17")


def test_a_new_cluster_has_the_image_that_pods_of_tests_run(notes: Notes):
    """No test has to bring the image with Python by itself."""
    KindCluster().start()

    assert notes.of("kind create cluster")
    assert any(line.endswith("everesthood.test/python-base:dev") for line in notes.of("docker image save"))


def test_the_api_server_is_killed_in_its_node(notes: Notes):
    """Its container is ended without a time to say goodbye, and the next one is waited for."""
    KindCluster().restart_apiserver()

    assert notes.of("crictl stop --timeout 0 first")


def test_servers_of_this_machine_are_reached_at_dockers_gateway(notes: Notes):
    """A webhook that runs beside the cluster is registered under an address that leads to it."""
    assert KindCluster().host_address == "172.18.0.1"
    assert "container inspect" in notes.lines[0]
