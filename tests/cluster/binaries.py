"""Builds the cluster's programs from their Go modules, once, into the cache."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.commands import environment, run
from tests.cluster.locks import locked
from tests.cluster.progress import step
from tests.cluster.settings import HERE, TestBedError, cache

COMPONENTS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "coredns",
    "kubectl",
    "helm",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A Go module of ours, what to build from it, and what to tell whoever waits."""

    name: str
    package: str
    patience: str
    ldflags: str = "-s -w"

    @property
    def folder(self) -> Path:
        return HERE / self.name.replace("-", "")


KUBE = Program(
    name="kube",
    package=".",
    patience="building Kubernetes, etcd, CoreDNS and Helm as one program, once: about 6 minutes on 2 cores",
    ldflags=(
        "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.2"
        " -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"
    ),
)
KUBE_ROUTER = Program(
    name="kube-router",
    package="github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
    patience="building kube-router, which enforces NetworkPolicy, once: about 2 minutes",
)


def go() -> str | None:
    """Return the Go command, also where it is installed but not on PATH."""
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")


def are_built() -> bool:
    """Return whether nothing is to be compiled."""
    return all(_target(program).exists() for program in (KUBE, KUBE_ROUTER))


def kube() -> Path:
    """Return the program that is every Kubernetes component, built if need be."""
    return _ensure(KUBE)


def kube_router() -> Path:
    """Return the NetworkPolicy enforcer, built if need be."""
    return _ensure(KUBE_ROUTER)


def component(name: str) -> Path:
    """Return the path by whose name the kube program acts as that component."""
    link = kube().parent / name
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to("kube")
    return link


def _ensure(program: Program) -> Path:
    target = _target(program)
    if not target.exists():
        with locked(program.name):
            if not target.exists():
                _build(program, target)
    return target


def _target(program: Program) -> Path:
    return cache() / "bin" / f"{program.name}-{_key(program)}" / program.name


def _key(program: Program) -> str:
    """Hash all that decides what comes out, so that a stale program is never run."""
    compiler = go()
    if compiler is None:
        raise TestBedError("install Go (1.26 or newer) to build the embedded cluster")
    seen = hashlib.sha256(run(compiler, "env", "GOVERSION", "GOARCH").encode() + program.ldflags.encode())
    for name in ("main.go", "go.mod", "go.sum"):
        file = program.folder / name
        seen.update(file.read_bytes() if file.exists() else b"")
    return seen.hexdigest()[:16]


def _build(program: Program, target: Path) -> None:
    compiler = str(go())
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".tmp")
    # Proxies stay: the modules come from the network.
    env = dict(os.environ) | {"CGO_ENABLED": "0", "PATH": environment()["PATH"]}
    # The linker would drop the debug information (-s -w): not to make it takes an eighth off the compiler's work.
    plain = ("-trimpath", "-buildvcs=false", "-mod=readonly", "-gcflags=all=-dwarf=false")
    flags = (*plain, "-ldflags", program.ldflags)
    with step(program.patience):
        run(compiler, "build", *flags, "-o", unfinished, program.package, env=env, cwd=program.folder)
    unfinished.rename(target)
    for old in target.parent.parent.glob(f"{program.name}-*"):
        if old != target.parent and len(old.name) == len(target.parent.name):
            shutil.rmtree(old)
