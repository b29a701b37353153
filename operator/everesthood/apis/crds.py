"""Writes the CustomResourceDefinitions, their chart templates and the API reference from the types.

`python -m everesthood.apis.crds` writes, `--check` only says what is stale.
"""

import argparse
import io
import sys
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from ruamel.yaml import YAML

from everesthood.apis import names
from everesthood.apis.reference import reference
from everesthood.apis.schema import resource_schema
from everesthood.apis.v1alpha1.credential import AgentCredential
from everesthood.apis.v1alpha1.instance import AgentInstance
from everesthood.apis.v1alpha1.meta import Column, Resource
from everesthood.apis.v1alpha1.template import AgentTemplate

KINDS: Final[tuple[type[BaseModel], ...]] = (AgentTemplate, AgentInstance, AgentCredential)
_HEADER: Final = "# Generated from operator/everesthood/apis by `make generate`. Do not edit.\n"


def resource(kind: type[BaseModel]) -> Resource:
    """Return how a kind is served."""
    found = getattr(kind, "RESOURCE", None)
    if not isinstance(found, Resource):
        msg = f"{kind.__name__} lacks RESOURCE"
        raise TypeError(msg)
    return found


def definition(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a kind."""
    served = resource(kind)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{served.plural}.{names.GROUP}",
            "labels": {names.LABEL_NAME: "everesthood", names.LABEL_COMPONENT: "crd"},
        },
        "spec": {
            "group": names.GROUP,
            "scope": served.scope,
            "names": {
                "kind": served.kind,
                "listKind": f"{served.kind}List",
                "plural": served.plural,
                "singular": served.singular,
                "shortNames": [served.short],
                "categories": [names.CATEGORY],
            },
            "versions": [_version(kind, served)],
        },
    }


def _version(kind: type[BaseModel], served: Resource) -> dict[str, Any]:
    subresources: dict[str, Any] = {"status": {}}
    if served.scale:
        subresources["scale"] = dict(served.scale)
    version: dict[str, Any] = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(column) for column in served.columns],
        "subresources": subresources,
        "schema": {"openAPIV3Schema": resource_schema(kind)},
    }
    if served.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in served.selectable]
    return version


def _column(column: Column) -> dict[str, Any]:
    out: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.priority:
        out["priority"] = column.priority
    return out


def yaml_text(document: dict[str, Any]) -> str:
    """Return a document as YAML, the same for the same document."""
    writer = YAML()
    writer.width = 110
    writer.representer.ignore_aliases = lambda *_: True
    writer.indent(mapping=2, sequence=4, offset=2)
    out = io.StringIO()
    writer.dump(document, out)
    return out.getvalue()


def chart_text(kind: type[BaseModel]) -> str:
    """Return the definition as a Helm template, its own braces kept from Helm."""
    document = definition(kind)
    text = yaml_text(document).replace("{{", '{{ "{{" }}')
    head, labels, rest = text.partition("  labels:\n")
    keep = "  {{- if .Values.crds.keep }}\n  annotations:\n    helm.sh/resource-policy: keep\n  {{- end }}\n"
    return f"{_HEADER}{{{{- if .Values.crds.enabled }}}}\n{head}{keep}{labels}{rest}{{{{- end }}}}\n"


def files() -> dict[str, str]:
    """Return every generated file, by its path from the repository's root."""
    pages = [(resource(kind), resource_schema(kind)) for kind in KINDS]
    made = {"docs/reference/api.md": reference(pages)}
    for kind in KINDS:
        plural = resource(kind).plural
        made[f"crds/{plural}.yaml"] = _HEADER + yaml_text(definition(kind))
        made[f"charts/everesthood/templates/crds/{plural}.yaml"] = chart_text(kind)
    return made


def stale(root: Path) -> list[str]:
    """Return the generated files that are missing or differ."""
    return [
        path
        for path, text in files().items()
        if not (root / path).is_file() or (root / path).read_text() != text
    ]


def write(root: Path) -> None:
    """Write the generated files."""
    for path, text in files().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def main(arguments: list[str] | None = None) -> int:
    """Write or check, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="say what is stale, write nothing")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="root of the repository")
    chosen = parser.parse_args(arguments)
    if not chosen.check:
        write(chosen.root)
        return 0
    old = stale(chosen.root)
    for path in old:
        sys.stderr.write(f"{path} is stale; run `make generate`\n")
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
