"""Rules between objects: an instance against its template and the credentials that it binds.

What is missing is a warning, because GitOps applies in any order; what contradicts is a problem.
A slot's hosts must all be among its credential's hosts, so that no call fails for want of leave.
"""

from collections.abc import Iterator, Mapping

from everesthood.apis.reasons import Reason
from everesthood.apis.v1alpha1.credential import AgentCredentialSpec
from everesthood.apis.v1alpha1.instance import AgentInstanceSpec, CredentialBinding
from everesthood.apis.v1alpha1.template import AgentTemplateSpec, CredentialSlot
from everesthood.domain import egress, schedules
from everesthood.domain.errors import Problem
from everesthood.domain.languages import Languages
from everesthood.domain.templates import at_pointer


def instance_problems(spec: AgentInstanceSpec) -> Iterator[Problem]:
    """Yield what is wrong with an instance by itself."""
    yield from schedules.problems(spec.schedules)


def credential_problems(spec: AgentCredentialSpec, internal_hosts: frozenset[str]) -> Iterator[Problem]:
    """Yield what is wrong with a credential by itself."""
    yield from egress.list_problems("spec.hosts", spec.hosts, internal_hosts)
    if spec.header and egress.is_ours(spec.header):
        yield Problem("spec.header", f"header {spec.header} is set by Everesthood")


def template_problems(
    spec: AgentInstanceSpec, template: AgentTemplateSpec, languages: Languages
) -> Iterator[Problem]:
    """Yield where an instance contradicts its template; one that pins a revision follows that."""
    if spec.update_policy == "Manual":
        return
    yield from _config_problems(spec, template, languages)
    yield from _schedule_problems(spec, template, languages)
    yield from _slot_problems(spec, template)
    plans = [plan.name for plan in template.plans]
    if spec.plan is not None and spec.plan not in plans:
        message = f"{_template(spec)} has no plan {spec.plan}{_known(plans)}"
        yield Problem("spec.plan", message)


def _config_problems(
    spec: AgentInstanceSpec, template: AgentTemplateSpec, languages: Languages
) -> Iterator[Problem]:
    for pointer, message in languages.check(template.config_schema, spec.config):
        yield Problem(at_pointer("spec.config", pointer), message, Reason.CONFIG_INVALID)


def _schedule_problems(
    spec: AgentInstanceSpec, template: AgentTemplateSpec, languages: Languages
) -> Iterator[Problem]:
    for index, schedule in enumerate(spec.schedules):
        for pointer, message in languages.check(template.input_schema, schedule.input):
            path = at_pointer(f"spec.schedules[{index}].input", pointer)
            yield Problem(path, message, Reason.INPUT_INVALID)


def _slot_problems(spec: AgentInstanceSpec, template: AgentTemplateSpec) -> Iterator[Problem]:
    slots = [slot.name for slot in template.credentials]
    for index, binding in enumerate(spec.credentials):
        if binding.slot not in slots:
            message = f"{_template(spec)} has no credential slot {binding.slot}{_known(slots)}"
            yield Problem(f"spec.credentials[{index}].slot", message)
    bound = {binding.slot for binding in spec.credentials}
    for slot in template.credentials:
        if slot.required == "Always" and slot.name not in bound:
            message = f"{_template(spec)} needs a credential for slot {slot.name}"
            yield Problem("spec.credentials", message, Reason.CREDENTIAL_NOT_BOUND)


def _template(spec: AgentInstanceSpec) -> str:
    return f"template {spec.template_ref.name}"


def _known(names: list[str]) -> str:
    return f"; it has {', '.join(sorted(names))}" if names else ""


def binding_problems(
    name: str,
    spec: AgentInstanceSpec,
    template: AgentTemplateSpec | None,
    credentials: Mapping[str, AgentCredentialSpec],
) -> Iterator[Problem]:
    """Yield bindings that the bound credentials do not allow."""
    slots = {slot.name: slot for slot in template.credentials} if template else {}
    for index, binding in enumerate(spec.credentials):
        credential = credentials.get(binding.credential_ref.name)
        if credential is not None:
            path = f"spec.credentials[{index}].credentialRef.name"
            for message in _refusals(name, binding, slots.get(binding.slot), credential):
                yield Problem(path, message, Reason.CREDENTIAL_NOT_ALLOWED)


def _refusals(
    name: str,
    binding: CredentialBinding,
    slot: CredentialSlot | None,
    credential: AgentCredentialSpec,
) -> Iterator[str]:
    bound = binding.credential_ref.name
    if credential.allowed_instances and name not in credential.allowed_instances:
        yield f"credential {bound} does not allow instance {name}"
    missing = sorted(set(slot.hosts) - set(credential.hosts)) if slot else []
    if missing:
        yield f"credential {bound} may not be sent to {', '.join(missing)}, which slot {binding.slot} needs"
