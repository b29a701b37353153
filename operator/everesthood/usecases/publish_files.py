"""Publish manifests of files, as the controller does with those of a cluster: for one machine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import NAMESPACE_URL, uuid5

from everesthood.apis.v1alpha1.credential import AgentCredential
from everesthood.apis.v1alpha1.instance import AgentInstance
from everesthood.apis.v1alpha1.template import AgentTemplate
from everesthood.domain import limits
from everesthood.domain.children import canonical, digest
from everesthood.domain.manifests import Manifest
from everesthood.usecases.ports.registry import (
    PublishedCredential,
    PublishedInstance,
    PublishedRevision,
    PublishedTemplate,
    Registry,
)

LOCAL_NAMESPACE = "default"
"""Of manifests that name none, as kubectl's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a set of manifests says should be there."""

    templates: tuple[PublishedTemplate, ...] = ()
    revisions: tuple[PublishedRevision, ...] = ()
    instances: tuple[PublishedInstance, ...] = ()
    credentials: tuple[PublishedCredential, ...] = ()
    waiting: tuple[str, ...] = ()
    """Instances whose template or plan of workers is not there, each as a sentence."""


def wanted(manifests: Sequence[Manifest], *, generation: int) -> Wanted:
    """Return what manifests without problems ask for; `generation` must grow from set to set."""
    revisions = {(r.namespace, r.template): r for r in _revisions(manifests)}
    instances, waiting = [], []
    for manifest in manifests:
        if isinstance(manifest.content, AgentInstance):
            template = manifest.content.spec.template_ref.name
            revision = revisions.get((namespace_of(manifest), template))
            if revision is None:
                waiting.append(f"AgentInstance {manifest.name} waits for AgentTemplate {template}")
            else:
                instances.append(_instance(manifest, manifest.content, revision.digest, generation))
    return Wanted(
        templates=tuple(_templates(manifests, generation)),
        revisions=tuple(revisions.values()),
        instances=tuple(instances),
        credentials=tuple(_credentials(manifests, generation)),
        waiting=tuple(waiting),
    )


async def publish_files(new: Wanted, *, registry: Registry) -> None:
    """Bring the record to what is wanted: nothing else stays in it."""
    for template in new.templates:
        await registry.publish_template(template)
    for revision in new.revisions:
        await registry.publish_revision(revision)
    for credential in new.credentials:
        await registry.publish_credential(credential)
    for instance in new.instances:
        await registry.publish_instance(instance)
    for uid in await registry.known_instances() - {instance.uid for instance in new.instances}:
        await registry.remove_instance(uid)
    for uid in await registry.known_templates() - {template.uid for template in new.templates}:
        await registry.remove_template(uid)
    for uid in await registry.known_credentials() - {credential.uid for credential in new.credentials}:
        await registry.remove_credential(uid)


def namespace_of(manifest: Manifest) -> str:
    """Return the namespace that a manifest is for."""
    return manifest.namespace or LOCAL_NAMESPACE


def uid_of(kind: str, namespace: str, name: str) -> str:
    """Return the uid that an object has on every machine and after every start."""
    return str(uuid5(NAMESPACE_URL, f"everesthood:{kind}/{namespace}/{name}"))


def _spec(document: AgentTemplate) -> Mapping[str, object]:
    dumped: Mapping[str, object] = document.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped


def _templates(manifests: Sequence[Manifest], generation: int) -> Iterator[PublishedTemplate]:
    for manifest in manifests:
        if isinstance(manifest.content, AgentTemplate):
            namespace = namespace_of(manifest)
            yield PublishedTemplate(
                uid=uid_of("AgentTemplate", namespace, manifest.name),
                namespace=namespace,
                name=manifest.name,
                generation=generation,
                limits=limits.read(manifest.content.spec.limits),
            )


def _revisions(manifests: Sequence[Manifest]) -> Iterator[PublishedRevision]:
    for manifest in manifests:
        if isinstance(manifest.content, AgentTemplate):
            spec = _spec(manifest.content)
            yield PublishedRevision(
                namespace=namespace_of(manifest),
                digest=digest(spec),
                template=manifest.name,
                spec=canonical(spec),
            )


def _instance(
    manifest: Manifest, content: AgentInstance, revision: str, generation: int
) -> PublishedInstance:
    namespace, spec = namespace_of(manifest), content.spec
    return PublishedInstance(
        uid=uid_of("AgentInstance", namespace, manifest.name),
        namespace=namespace,
        name=manifest.name,
        generation=generation,
        template=spec.template_ref.name,
        service_account=manifest.name,
        current_revision=revision,
        config=canonical(spec.config),
        bindings={binding.slot: binding.credential_ref.name for binding in spec.credentials},
        suspended=spec.suspend,
        limits=limits.read(spec.limits),
    )


def _credentials(manifests: Sequence[Manifest], generation: int) -> Iterator[PublishedCredential]:
    for manifest in manifests:
        if isinstance(manifest.content, AgentCredential):
            namespace, spec = namespace_of(manifest), manifest.content.spec
            yield PublishedCredential(
                uid=uid_of("AgentCredential", namespace, manifest.name),
                namespace=namespace,
                name=manifest.name,
                generation=generation,
                type=spec.type,
                header=spec.header or "",
                secret_name=spec.source.secret_ref.name,
                secret_key=spec.source.secret_ref.key,
                hosts=tuple(spec.hosts),
                allowed_instances=tuple(spec.allowed_instances),
                limits=limits.read(spec.limits),
            )
