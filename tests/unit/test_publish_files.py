"""What files ask for is what the record gets, and nothing else stays there."""

from everesthood.adapters.languages import Languages
from everesthood.adapters.manifests import documents
from everesthood.adapters.memory import MemoryRegistry, Record
from everesthood.domain import manifests
from everesthood.domain.limits import Limits, Rate
from everesthood.usecases.publish_files import publish_files, wanted

FILES = """
apiVersion: agents.everesthood.io/v1alpha1
kind: AgentTemplate
metadata: {name: echo}
spec:
  displayName: Echo
  credentials: [{name: model, hosts: [api.example.com]}]
  egress: {hosts: [api.example.com]}
  steps: [{name: one, transform: {value: input}}]
---
apiVersion: agents.everesthood.io/v1alpha1
kind: AgentInstance
metadata: {name: mine}
spec: {templateRef: {name: echo}, credentials: [{slot: model, credentialRef: {name: key}}]}
---
apiVersion: agents.everesthood.io/v1alpha1
kind: AgentCredential
metadata: {name: key}
spec: {type: Bearer, hosts: [api.example.com], source: {secretRef: {name: model, key: token}}}
---
apiVersion: agents.everesthood.io/v1alpha1
kind: AgentInstance
metadata: {name: early}
spec: {templateRef: {name: later}}
"""


def read(text):
    languages = Languages()
    return [manifests.read(document.value, languages) for document in documents(text)]


async def published(text, registry, *, generation=1):
    new = wanted(read(text), generation=generation)
    await publish_files(new, registry=registry)
    return new


async def test_an_instance_runs_the_template_beside_it():
    """An instance gets the revision of its template's content, with its credentials bound."""
    registry = MemoryRegistry(Record())
    new = await published(FILES, registry)
    (instance,) = new.instances

    assert instance.current_revision == new.revisions[0].digest
    assert instance.bindings == {"model": "key"}
    assert await registry.known_instances() == {instance.uid}
    assert await registry.known_credentials() == {new.credentials[0].uid}


async def test_an_instance_without_its_template_waits():
    """An instance whose template is in no file is not run, and a sentence says what it waits for."""
    new = wanted(read(FILES), generation=1)

    assert new.waiting == ("AgentInstance early waits for AgentTemplate later",)


async def test_what_is_no_longer_in_the_files_goes():
    """An object whose manifest is removed leaves the record."""
    registry = MemoryRegistry(Record())
    await published(FILES, registry)
    await published("", registry, generation=2)

    assert await registry.known_instances() == frozenset()
    assert await registry.known_credentials() == frozenset()


async def test_a_change_is_a_new_revision_of_the_same_instance():
    """A saved template gives a new revision, and the instance keeps its uid and with it its runs."""
    before = wanted(read(FILES), generation=1)
    after = wanted(read(FILES.replace("value: input", "value: input.text")), generation=2)

    assert before.instances[0].uid == after.instances[0].uid
    assert before.instances[0].current_revision != after.instances[0].current_revision


def test_limits_of_all_three_kinds_are_published():
    """Template, instance and credential each come with limits of their own."""
    files = FILES.replace("  displayName: Echo", "  displayName: Echo\n  limits: {concurrency: 9}")
    files = files.replace(
        "{templateRef: {name: echo}, cred", "{templateRef: {name: echo}, limits: {rate: {runs: 3}}, cred"
    )
    files = files.replace("spec: {type: Bearer,", "spec: {type: Bearer, limits: {concurrency: 2},")

    new = wanted(read(files), generation=1)

    (instance,) = new.instances
    assert instance.limits == Limits(rate=Rate(runs=3, period_seconds=60))
    assert new.templates[0].limits == Limits(concurrency=9)
    assert new.credentials[0].limits == Limits(concurrency=2)
