"""Manifests as people write them: one read by itself, then a set against one another.

`everesthood validate` and the admission webhook come here with the same rules.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from everesthood.apis.names import API_VERSION, GROUP
from everesthood.apis.schema import resource_schema
from everesthood.apis.v1alpha1.credential import AgentCredential, AgentCredentialSpec
from everesthood.apis.v1alpha1.instance import AgentInstance
from everesthood.apis.v1alpha1.template import AgentTemplate, AgentTemplateSpec
from everesthood.domain import bindings, structure, templates
from everesthood.domain.errors import Problem
from everesthood.domain.languages import Languages

Kind = AgentTemplate | AgentInstance | AgentCredential
MAX_DEPTH: Final = 100
_ENVELOPE: Final = frozenset({"apiVersion", "kind", "spec", "status"})

_KINDS: Final[Mapping[str, type[AgentTemplate | AgentInstance | AgentCredential]]] = {
    "AgentTemplate": AgentTemplate,
    "AgentInstance": AgentInstance,
    "AgentCredential": AgentCredential,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One document: what it is called, what it says if it can be read, and what is wrong."""

    kind: str
    namespace: str
    name: str
    content: Kind | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """Return what makes it the same object as another document."""
        return self.kind, self.namespace, self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is wrong with an object, and what a person should know although it is not wrong."""

    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What an instance refers to, as far as it is there."""

    template: AgentTemplateSpec | None = None
    credentials: Mapping[str, AgentCredentialSpec] = field(default_factory=dict)


def is_ours(document: object) -> bool:
    """Return whether a document claims to be of our group."""
    return isinstance(document, dict) and str(document.get("apiVersion", "")).split("/")[0] == GROUP


def read(document: Mapping[str, Any], languages: Languages) -> Manifest:
    """Read one document of our group as the API server would."""
    kind, metadata = str(document.get("kind")), document.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    name, namespace = str(known.get("name", "")), str(known.get("namespace", ""))
    content, problems = _parsed(document, languages)
    return Manifest(kind=kind, namespace=namespace, name=name, content=content, problems=tuple(problems))


def _parsed(document: Mapping[str, Any], languages: Languages) -> tuple[Kind | None, Sequence[Problem]]:
    if document.get("apiVersion") != API_VERSION:
        return None, [Problem("apiVersion", f"must be {API_VERSION}")]
    kind = _KINDS.get(str(document.get("kind")))
    if kind is None:
        return None, [Problem("kind", f"must be one of {', '.join(_KINDS)}")]
    if _too_deep(document):
        return None, [Problem("spec", f"is nested more than {MAX_DEPTH} levels deep")]
    return _structured(kind, document, languages)


def _too_deep(document: object) -> bool:
    """Return whether a document is nested too deeply, without recursion."""
    layer, depth = [document], 0
    while layer and depth <= MAX_DEPTH:
        layer = [child for node in layer for child in _children(node)]
        depth += 1
    return bool(layer)


def _children(node: object) -> Iterable[object]:
    if isinstance(node, Mapping):
        return node.values()
    return node if isinstance(node, list) else ()


def _structured(
    kind: type[Kind], document: Mapping[str, Any], languages: Languages
) -> tuple[Kind | None, Sequence[Problem]]:
    spec_schema = resource_schema(kind)["properties"]["spec"]
    parts = {"metadata": document.get("metadata")}
    if document.get("spec") is not None:
        parts["spec"] = structure.with_defaults(spec_schema, document["spec"])
    extra = {k: v for k, v in document.items() if k not in _ENVELOPE}
    try:
        content = kind.model_validate(extra | parts, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        return None, list(structure.model_problems(kind, error))
    broken = list(structure.rule_problems(spec_schema, parts.get("spec"), "spec", languages))
    return (None, broken) if broken else (content, ())


def judge(
    manifest: Manifest,
    around: Surroundings,
    languages: Languages,
    internal_hosts: frozenset[str] = frozenset(),
) -> Verdict:
    """Return the verdict on one manifest among what it refers to."""
    match manifest.content:
        case None:
            return Verdict(problems=manifest.problems)
        case AgentTemplate(spec=template):
            return Verdict(problems=templates.problems(template, languages, internal_hosts))
        case AgentCredential(spec=credential):
            return Verdict(problems=tuple(bindings.credential_problems(credential, internal_hosts)))
        case AgentInstance() as instance:
            return Verdict(
                problems=tuple(_instance_problems(instance, around, languages)),
                warnings=tuple(_instance_warnings(instance, around)),
            )


def _instance_problems(
    instance: AgentInstance, around: Surroundings, languages: Languages
) -> Iterator[Problem]:
    spec = instance.spec
    yield from bindings.instance_problems(spec)
    if around.template:
        yield from bindings.template_problems(spec, around.template, languages)
    yield from bindings.binding_problems(instance.metadata.name, spec, around.template, around.credentials)


def _instance_warnings(instance: AgentInstance, around: Surroundings) -> Iterator[str]:
    template = instance.spec.template_ref.name
    if around.template is None:
        yield f"spec.templateRef.name: there is no AgentTemplate {template} yet; nothing runs until there is"
    for index, binding in enumerate(instance.spec.credentials):
        name = binding.credential_ref.name
        if name not in around.credentials:
            path = f"spec.credentials[{index}].credentialRef.name"
            yield f"{path}: there is no AgentCredential {name} yet; nothing runs until there is"


def judge_all(
    manifests: Sequence[Manifest],
    languages: Languages,
    internal_hosts: frozenset[str] = frozenset(),
) -> list[Verdict]:
    """Return a verdict for each of a set of manifests that refer to one another."""
    seen: set[tuple[str, str, str]] = set()
    verdicts = []
    for manifest in manifests:
        around = _surroundings(manifest, manifests)
        verdict = judge(manifest, around, languages, internal_hosts)
        if manifest.key in seen and manifest.name:
            twice = Problem("metadata.name", f"{manifest.kind} {manifest.name} is there twice")
            verdict = Verdict(problems=(twice, *verdict.problems), warnings=verdict.warnings)
        seen.add(manifest.key)
        verdicts.append(verdict)
    return verdicts


def _surroundings(manifest: Manifest, manifests: Sequence[Manifest]) -> Surroundings:
    if not isinstance(manifest.content, AgentInstance):
        return Surroundings()
    near = [m for m in manifests if m.namespace == manifest.namespace]
    wanted = manifest.content.spec.template_ref.name
    return Surroundings(template=next(_templates(near, wanted), None), credentials=dict(_credentials(near)))


def _templates(manifests: Sequence[Manifest], name: str) -> Iterator[AgentTemplateSpec]:
    for manifest in manifests:
        if isinstance(manifest.content, AgentTemplate) and manifest.name == name:
            yield manifest.content.spec


def _credentials(manifests: Sequence[Manifest]) -> Iterator[tuple[str, AgentCredentialSpec]]:
    for manifest in manifests:
        if isinstance(manifest.content, AgentCredential):
            yield manifest.name, manifest.content.spec
