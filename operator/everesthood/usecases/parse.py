"""Objects of our kinds as their types; what cannot be read becomes problems, not exceptions."""

from functools import lru_cache
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from everesthood.apis.v1alpha1.credential import AgentCredentialSpec, AgentCredentialStatus
from everesthood.apis.v1alpha1.fields import Model
from everesthood.apis.v1alpha1.instance import AgentInstanceSpec, AgentInstanceStatus
from everesthood.apis.v1alpha1.template import AgentTemplateSpec, AgentTemplateStatus
from everesthood.domain.errors import Problem
from everesthood.domain.observed import Live

S = TypeVar("S", bound=BaseModel)


class _Instance(Model):
    spec: AgentInstanceSpec


class _Template(Model):
    spec: AgentTemplateSpec


class _Credential(Model):
    spec: AgentCredentialSpec


class _Revision(Model):
    data: AgentTemplateSpec
    revision: int = 0


def instance_spec(live: Live) -> AgentInstanceSpec | tuple[Problem, ...]:
    """Return the spec of an AgentInstance, or what is wrong with it."""
    try:
        return _Instance.model_validate_json(live.content).spec
    except ValidationError as error:
        return problems(error)


def template_spec(live: Live) -> AgentTemplateSpec | tuple[Problem, ...]:
    """Return the spec of an AgentTemplate, or what is wrong with it."""
    try:
        return _Template.model_validate_json(live.content).spec
    except ValidationError as error:
        return problems(error)


def credential_spec(live: Live) -> AgentCredentialSpec | tuple[Problem, ...]:
    """Return the spec of an AgentCredential, or what is wrong with it."""
    try:
        return _Credential.model_validate_json(live.content).spec
    except ValidationError as error:
        return problems(error)


@lru_cache(maxsize=512)
def template_content(content: bytes) -> AgentTemplateSpec | None:
    """Return the template that a ControllerRevision keeps, None when another version kept it."""
    try:
        return _Revision.model_validate_json(content).data
    except ValidationError:
        return None


def instance_status(live: Live) -> AgentInstanceStatus:
    """Return the status of an AgentInstance, empty when it cannot be read."""
    return _status(AgentInstanceStatus, live)


def template_status(live: Live) -> AgentTemplateStatus:
    """Return the status of an AgentTemplate, empty when it cannot be read."""
    return _status(AgentTemplateStatus, live)


def credential_status(live: Live) -> AgentCredentialStatus:
    """Return the status of an AgentCredential, empty when it cannot be read."""
    return _status(AgentCredentialStatus, live)


def _status(model: type[S], live: Live) -> S:
    try:
        return model.model_validate_json(live.status)
    except ValidationError:  # written by hand or by another version: it is written anew
        return model()


def problems(error: ValidationError) -> tuple[Problem, ...]:
    """Return the findings of a validation as paths and sentences, without the values."""
    return tuple(
        Problem(_path(finding["loc"]), finding["msg"]) for finding in error.errors(include_input=False)
    )


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")
