"""The demo in somebody's cluster: what it makes it marks, and it takes away that and nothing else."""

import json
from dataclasses import dataclass

from tests.cluster.settings import TestBedError

from demo.installation import NAMESPACE, ORGANIZATION
from demo.tools import Object, Tools

MARK = "everesthood.io/demo"
STANDIN = "standin"
NAMESPACES = (NAMESPACE, ORGANIZATION, STANDIN)
# Instances first: the controller has to be there to clean up after them.
KINDS = tuple(
    f"{kind}.agents.everesthood.io" for kind in ("agentinstances", "agenttemplates", "agentcredentials")
)


@dataclass(frozen=True, slots=True)
class Guest:
    """The demo's right to be in a cluster that is not its own."""

    tools: Tools

    def arrive(self) -> None:
        """Make the demo's namespaces, marked; refuse where one, or Everesthood, is there from elsewhere."""
        marked, there = self._marked(), self._namespaces()
        if strange := [name for name in NAMESPACES if name in there and name not in marked]:
            raise TestBedError(
                f"the cluster has a namespace {strange[0]} that the demo did not make; remove it, or say"
                f" by `kubectl label namespace {strange[0]} {MARK}=true` that the demo may use and delete it"
            )
        if NAMESPACE not in marked and (types := self._types()):
            raise TestBedError(
                f"the cluster has the type {types[0]}: Everesthood is or was installed in it, and the"
                " demo would take it over; choose another cluster, or remove it as its chart's README says"
            )
        for name in NAMESPACES:
            if name not in marked:
                self.tools.kubectl("create", "-f", "-", stdin=json.dumps(_namespace(name)))

    def leave(self) -> None:
        """Remove what the demo made; types and chart are its own where the system namespace is marked."""
        marked = self._marked()
        if NAMESPACE in marked:
            self._remove_everesthood(marked)
        # The one that tells goes last, so that whoever is interrupted can begin again.
        for name in sorted(marked, key=NAMESPACES.index, reverse=True):
            self.tools.kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=240s")

    def _remove_everesthood(self, marked: set[str]) -> None:
        types = self._types()
        found = [item["metadata"] for item in self.tools.items(",".join(types), "-A")] if types else []
        if strange := sorted(
            f"{it['namespace']}/{it['name']}" for it in found if it["namespace"] not in marked
        ):
            raise TestBedError(
                f"nothing is removed: agents outside of the demo need its Everesthood: {', '.join(strange)};"
                " delete them first"
            )
        for kind in types:
            for name in sorted({item["namespace"] for item in found}):
                self.tools.kubectl("-n", name, "delete", kind, "--all", "--timeout=240s")
        self.tools.helm(
            *("uninstall", "everesthood", "--namespace", NAMESPACE),
            *("--ignore-not-found", "--wait", "--timeout", "5m"),
        )
        for kind in types:
            self.tools.kubectl("delete", "crd", kind, "--ignore-not-found", "--timeout=120s")

    def _marked(self) -> set[str]:
        return self._namespaces("-l", f"{MARK}=true") & set(NAMESPACES)

    def _namespaces(self, *which: str) -> set[str]:
        return {item["metadata"]["name"] for item in self.tools.items("namespaces", *which)}

    def _types(self) -> list[str]:
        known = {item["metadata"]["name"] for item in self.tools.items("crd")}
        return [kind for kind in KINDS if kind in known]


def _namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {MARK: "true"}}}
