"""Installs the chart and the samples as a person would; the end-to-end tests do it the same way."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.tools import Tools

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts/everesthood"
SAMPLES = ROOT / "manifests/samples"
NAMESPACE = "everesthood-system"
ORGANIZATION = "acme"
IMAGE = "everesthood.test/everesthood:dev"
STORES = {"everesthood.test/postgres:17": "postgresql.image", "everesthood.test/valkey:8": "redis.image"}
"""Images of the stores in the demo's values, and where the chart has them."""
AGENTS = ("expense-check", "release-digest", "support-triage")
READY_SECONDS = 180


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Everesthood on one cluster."""

    tools: Tools
    values: Sequence[Path] = (ROOT / "demo/values.yaml", SAMPLES / "values.yaml")
    flags: Sequence[str] = ()
    """Further flags for helm."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Names of images in values and samples, and those to use in their place."""

    def install(self, *settings: str) -> None:
        """Install the chart, or upgrade it, and wait until every process is ready."""
        files = [part for path in self.values for part in ("--values", str(path))]
        extra = [part for setting in (*self._own_images(), *settings) for part in ("--set-json", setting)]
        self.tools.helm(
            *("upgrade", "--install", "everesthood", str(CHART), "--namespace", NAMESPACE),
            *("--create-namespace", "--wait", "--wait-for-jobs", "--timeout", "5m"),
            *(*self.flags, *files, *extra),
        )

    def label_namespace(self) -> None:
        """Make the API server enforce restricted pod security on the installation itself."""
        label = "pod-security.kubernetes.io/enforce=restricted"
        self.tools.kubectl("label", "namespace", NAMESPACE, label, "--overwrite")

    def apply_samples(self, *agents: str) -> None:
        """Apply the organisation, the stand-in server and these agents, or all."""
        self.apply(SAMPLES / "organization.yaml")
        self._apply_standin(SAMPLES / "standin")
        for agent in agents or AGENTS:
            self.apply_agent(SAMPLES / agent)

    def apply_agent(self, folder: Path) -> None:
        """Apply a sample, with the images of this installation."""
        text = "\n---\n".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.yaml")))
        self._apply_text(text)

    def _apply_standin(self, folder: Path) -> None:
        """Apply the stand-in server; it needs but a Python, so another build of our image leaves it alone."""
        if _repository(self.images.get(IMAGE, IMAGE)) == _repository(IMAGE):
            self.tools.kubectl("apply", "--server-side", "-k", str(folder))
        else:
            self._apply_text(self.tools.kubectl("kustomize", str(folder)))

    def _apply_text(self, text: str) -> None:
        for name, exact in self.images.items():
            text = text.replace(f"image: {name}\n", f"image: {exact}\n")
        self.tools.kubectl("apply", "--server-side", "-f", "-", stdin=text)

    def _own_images(self) -> Iterator[str]:
        """Yield the chart's settings for these images; another tag has the schema brought up to date too."""
        if exact := self.images.get(IMAGE):
            yield f"image.tag={json.dumps(exact.rpartition(':')[2])}"
            if _repository(exact) != _repository(IMAGE):
                yield f"image.repository={json.dumps(_repository(exact))}"
                # Somebody's node keeps what it pulled under this tag before.
                yield 'image.pullPolicy="Always"'
        for name, value in STORES.items():
            if name in self.images:
                yield f"{value}={json.dumps(self.images[name])}"

    def apply(self, path: Path) -> str:
        """Apply a file, or all files of a folder, by server-side apply."""
        return self.tools.kubectl("apply", "--server-side", "-f", str(path))

    def wait_ready(self, *agents: str, seconds: int = READY_SECONDS) -> None:
        """Wait until the stand-in server and these agents are ready."""
        self.tools.kubectl("-n", "standin", "rollout", "status", "deploy/standin", f"--timeout={seconds}s")
        names = [f"agentinstance/{agent}" for agent in agents or AGENTS]
        self.tools.kubectl(
            *("-n", ORGANIZATION, "wait", "--for=condition=Ready", f"--timeout={seconds}s", *names),
            timeout=seconds + 30,
        )

    def run(self, agent: str, *, seconds: int = 120) -> dict[str, Any]:
        """Run an agent on its sample input and return the finished run."""
        given = SAMPLES / "inputs" / f"{agent}.json"
        text = self.tools.everesthood(
            *("run", agent, "-n", ORGANIZATION, "--input", f"@{given}", "--follow", "-o", "json"),
            timeout=seconds,
        )
        finished: dict[str, Any] = json.loads(text)
        return finished


def _repository(image: str) -> str:
    return image.rpartition(":")[0]
