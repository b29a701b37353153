"""Builds the images with buildah: ours from operator/Dockerfile, the others from Debian packages."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

from tests.cluster import imagestore, wheelhouse
from tests.cluster.commands import environment, run
from tests.cluster.imagestore import Image
from tests.cluster.locks import locked
from tests.cluster.progress import step
from tests.cluster.settings import (
    BASE_IMAGE,
    HERE,
    OPERATOR_IMAGE,
    PAUSE_IMAGE,
    POSTGRES_IMAGE,
    REPOSITORY,
    VALKEY_IMAGE,
    TestBedError,
    cache,
)

SUITE = "trixie"
SLIM = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/lib/*/libLLVM*")
BASE_PACKAGES = ("python3", "ca-certificates")
STORE_PACKAGES = ("postgresql-17", "valkey-server", "valkey-tools")

PAUSE = 'FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause", "-P"]\n'
BASE = """FROM scratch
ADD rootfs.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
CMD ["python3"]
"""
# The same user as in the official images. Their data folders are declared by whoever mounts them.
POSTGRES = """FROM scratch
ADD rootfs.tar /
COPY postgres.sh /usr/local/bin/docker-entrypoint.sh
ENV PATH=/usr/lib/postgresql/17/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \\
    PGDATA=/var/lib/postgresql/data
USER 999:999
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
"""
VALKEY = """FROM scratch
ADD rootfs.tar /
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
WORKDIR /data
USER 999:999
CMD ["valkey-server", "--protected-mode", "no"]
"""


def pause() -> Image:
    """Return the image of the process that holds a pod's namespaces."""
    return _ensure(PAUSE_IMAGE, PAUSE, {"pause": lambda target: shutil.copy("/usr/bin/catatonit", target)})


def base() -> Image:
    """Return Debian with Python, as the official slim image has it."""
    return _ensure(BASE_IMAGE, BASE, {"rootfs.tar": _rootfs(BASE_PACKAGES)}, key=_recipe(BASE_PACKAGES))


def postgres() -> Image:
    """Return a PostgreSQL that obeys the official image's environment variables."""
    script = HERE / "postgres.sh"
    files = {"rootfs.tar": _rootfs(STORE_PACKAGES), "postgres.sh": lambda target: shutil.copy(script, target)}
    return _ensure(POSTGRES_IMAGE, POSTGRES, files, key=_recipe(STORE_PACKAGES) + script.read_text())


def valkey() -> Image:
    """Return a Valkey that is started as the official image is."""
    return _ensure(VALKEY_IMAGE, VALKEY, {"rootfs.tar": _rootfs(STORE_PACKAGES)}, key=_recipe(STORE_PACKAGES))


def build_operator_image(repository: Path = REPOSITORY, tag: str = OPERATOR_IMAGE) -> Image:
    """Build operator/Dockerfile; after a change of source only the small layers are new."""
    if not (repository / "operator" / "Dockerfile").exists():
        raise TestBedError("operator/Dockerfile is missing")
    parent, wheels = base(), wheelhouse.ensure(repository / "requirements" / "runtime.txt")
    key = _digest(parent.digest, wheels.name, _fingerprint(repository / "operator"))
    with locked("images"):
        known = _current(tag, key)
        if known:
            return known
        with step(f"image {tag}"), tempfile.TemporaryDirectory(prefix="everesthood-") as context:
            _stage(repository, wheels, Path(context))
            arguments = ["--build-arg", f"BASE_IMAGE={BASE_IMAGE}", "-f", f"{context}/operator/Dockerfile"]
            return _build(tag, key, Path(context), arguments)


def build_author_image(folder: Path, tag: str) -> Image:
    """Build an author's Dockerfile on top of our image, as a sample with Python of its own has one."""
    key = _digest(build_operator_image().digest, _fingerprint(folder))
    with locked("images"):
        known = _current(tag, key)
        if known:
            return known
        with step(f"image {tag}"):
            return _build(tag, key, folder, ["--build-arg", f"EVERESTHOOD_IMAGE={OPERATOR_IMAGE}"])


BUILDERS: dict[str, Callable[[], Image]] = {
    PAUSE_IMAGE: pause,
    BASE_IMAGE: base,
    POSTGRES_IMAGE: postgres,
    VALKEY_IMAGE: valkey,
    OPERATOR_IMAGE: build_operator_image,
}


def ensure(name: str) -> Image:
    """Return one of our images by name, built if it is missing or stale."""
    builder = BUILDERS.get(name)
    found = builder() if builder else imagestore.find(name)
    if found is None:
        raise TestBedError(f"there is no image {name}; the test bed makes {', '.join(BUILDERS)}")
    return found


def build_all() -> None:
    """Bring every image up to date."""
    for builder in BUILDERS.values():
        builder()


def _ensure(name: str, dockerfile: str, files: dict[str, Callable[[Path], object]], key: str = "") -> Image:
    full = _digest(dockerfile, key)
    with locked("images"):
        known = _current(name, full)
        if known:
            return known
        with step(f"image {name}"), tempfile.TemporaryDirectory(prefix="everesthood-") as context:
            for target, provide in files.items():
                provide(Path(context, target))
            Path(context, "Dockerfile").write_text(dockerfile)
            return _build(name, full, Path(context), [])


def _current(name: str, key: str) -> Image | None:
    return imagestore.find(name) if _keys().get(name) == key else None


def _build(name: str, key: str, context: Path, arguments: Sequence[str]) -> Image:
    """Build without a network, so that nothing comes in that was not asked for."""
    isolation = ["--isolation", "oci", "--network", "none"]
    _buildah("bud", "-q", "--layers", "--pull-never", *isolation, *arguments, "-t", name, str(context))
    imagestore.folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=imagestore.folder()) as pushed:
        # Not compressed: containerd unpacks it on this machine a moment later.
        _buildah("push", "-q", "--disable-compression", name, f"dir:{pushed}")
        image = imagestore.add(name, Path(pushed))
    (imagestore.folder() / "keys.json").write_text(json.dumps(_keys() | {name: key}, indent=1))
    imagestore.sweep()
    return image


def _buildah(*argv: str) -> str:
    """Run buildah in a mount namespace of its own, so that its mounts end with it."""
    store = cache() / "buildah"
    place: list[str | Path] = [
        "--root",
        store / "root",
        "--runroot",
        store / "run",
        "--storage-driver",
        "overlay",
    ]
    return run("unshare", "--mount", "buildah", *place, *argv, env=environment(TMPDIR=tempfile.gettempdir()))


def _keys() -> dict[str, str]:
    file = imagestore.folder() / "keys.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _recipe(packages: Sequence[str]) -> str:
    return _digest(SUITE, *SLIM, *packages)


def _rootfs(packages: Sequence[str]) -> Callable[[Path], object]:
    """Return how to place a Debian root file system with these packages, made once a recipe."""

    def provide(target: Path) -> None:
        kept = cache() / "rootfs" / f"{_recipe(packages)[:16]}.tar"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            _bootstrap(packages, kept)
        _link(kept, target)

    return provide


def _bootstrap(packages: Sequence[str], target: Path) -> None:
    unfinished = target.with_suffix(".tmp.tar")
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in SLIM]
    # Before the packages come, because Debian's would choose a uid of their own.
    users = "echo 'postgres:x:999:999::/var/lib/postgresql:/bin/sh' >> \"$1/etc/passwd\""
    group = "echo 'postgres:x:999:' >> \"$1/etc/group\""
    hooks = [f"--essential-hook={users}", f"--essential-hook={group}"] if packages is STORE_PACKAGES else []
    include = f"--include={','.join(packages)}"
    # Proxies stay: the packages come from the network.
    env = dict(os.environ) | {"PATH": environment()["PATH"]}
    with step(f"Debian {SUITE} with {', '.join(packages)}, once: about half a minute"):
        run("mmdebstrap", "--variant=minbase", include, *options, *hooks, SUITE, unfinished, env=env)
    unfinished.rename(target)


def _stage(repository: Path, wheels: Path, context: Path) -> None:
    """Copy what the Dockerfile may see: sources without caches, lock files, and the packages."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for folder in ("operator", "requirements"):
        shutil.copytree(repository / folder, context / folder, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (repository / name).exists():
            shutil.copy2(repository / name, context / name)
    shutil.copytree(wheels, context / "wheelhouse", copy_function=_link)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _fingerprint(folder: Path) -> str:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    seen = sha256()
    for file in files:
        seen.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return seen.hexdigest()


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode()).hexdigest()
