"""Images at rest: one OCI layout in the cache, in which images share their layers."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.cluster.settings import cache

REF = "org.opencontainers.image.ref.name"


def folder() -> Path:
    return cache() / "images"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image of the store."""

    name: str
    descriptor: dict[str, Any]

    @property
    def digest(self) -> str:
        return str(self.descriptor["digest"])

    @property
    def documents(self) -> list[str]:
        """Return the blobs that describe: the manifest and the configuration."""
        return [self.digest, self._manifest()["config"]["digest"]]

    @property
    def layers(self) -> list[str]:
        return [layer["digest"] for layer in self._manifest()["layers"]]

    def index(self) -> dict[str, Any]:
        """Return an OCI index with this image alone, named for containerd."""
        plain = {key: self.descriptor[key] for key in ("mediaType", "digest", "size")}
        named = plain | {"annotations": {"io.containerd.image.name": self.name}}
        return {"schemaVersion": 2, "manifests": [named]}

    def blob(self, digest: str) -> Path:
        return folder() / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def _manifest(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.blob(self.digest).read_text())
        return content


def find(name: str) -> Image | None:
    """Return the image of that name, if the store has it."""
    for descriptor in _index():
        if descriptor.get("annotations", {}).get(REF) == name:
            return Image(name=name, descriptor=descriptor)
    return None


def names() -> list[str]:
    return [
        descriptor["annotations"][REF] for descriptor in _index() if REF in descriptor.get("annotations", {})
    ]


def add(name: str, pushed: Path) -> Image:
    """Take over what buildah pushed as `dir:`, the one format that it does not compress."""
    blobs = folder() / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    manifest = (pushed / "manifest.json").read_bytes()
    digest = sha256(manifest).hexdigest()
    (pushed / "manifest.json").rename(pushed / digest)
    for blob in pushed.iterdir():
        if len(blob.name) == len(digest):
            blob.replace(blobs / blob.name)
    descriptor = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": f"sha256:{digest}",
        "size": len(manifest),
        "annotations": {REF: name},
    }
    others = [each for each in _index() if each.get("annotations", {}).get(REF) not in (None, name)]
    index = {"schemaVersion": 2, "manifests": [*others, descriptor]}
    (folder() / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    (folder() / "index.json").write_text(json.dumps(index, indent=1))
    return Image(name=name, descriptor=descriptor)


def sweep() -> None:
    """Remove blobs that no image of the store uses any more."""
    images = [image for name in names() if (image := find(name))]
    used = {blob.removeprefix("sha256:") for image in images for blob in (*image.documents, *image.layers)}
    for file in (folder() / "blobs" / "sha256").glob("*"):
        if file.name not in used:
            file.unlink()


def _index() -> list[dict[str, Any]]:
    file = folder() / "index.json"
    return json.loads(file.read_text())["manifests"] if file.exists() else []
