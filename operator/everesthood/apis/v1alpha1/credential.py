"""AgentCredential: a credential, where it may be sent, and who may use it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from everesthood.apis.v1alpha1.fields import SET, HostName, Line, Model, Name, Timestamp, rules
from everesthood.apis.v1alpha1.limits import Limits
from everesthood.apis.v1alpha1.meta import Column, Conditions, ObjectMeta, Resource


class SecretKeyRef(Model):
    """One key of a Secret in the namespace; its value is read by the gateway only."""

    name: Annotated[Name, Field(description="Name of the Secret.")]
    key: Annotated[
        str,
        Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", description="Key in it."),
    ]


class Source(Model):
    """Where the value comes from."""

    secret_ref: Annotated[
        SecretKeyRef, Field(description="A Secret that somebody else owns; changes are followed.")
    ]


class AgentCredentialSpec(Model):
    """A credential of the organisation."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": rules(
            ("self.type != 'Header' || has(self.header)", "type Header needs header"),
            ("self.type == 'Header' || !has(self.header)", "header is only for type Header"),
        ),
    }

    display_name: Annotated[Line | None, Field(description="Name for people.")] = None
    type: Annotated[
        Literal["Bearer", "Header", "Basic"],
        Field(
            description=(
                "How it is sent: `Authorization: Bearer`, the header below, or `user:password` as Basic."
            )
        ),
    ] = "Bearer"
    header: Annotated[
        str | None,
        Field(max_length=100, pattern=r"^[A-Za-z0-9-]+$", description="Header, with type Header."),
    ] = None
    source: Annotated[Source, Field(description="Where the value comes from.")]
    hosts: Annotated[
        list[HostName],
        Field(
            min_length=1,
            max_length=20,
            json_schema_extra=SET,
            description="The only hosts that it may be sent to, `host` or `host:port`.",
        ),
    ]
    allowed_instances: Annotated[
        list[Name],
        Field(
            max_length=100,
            json_schema_extra=SET,
            description="AgentInstances that may use it; empty means all in the namespace.",
        ),
    ] = []
    limits: Annotated[
        Limits | None,
        Field(description="Limits of the runs of all AgentInstances that bind it, counted together."),
    ] = None


class AgentCredentialStatus(Model):
    """What the controller saw; never the value."""

    conditions: Conditions = []
    observed_generation: Annotated[int, Field(ge=0, description="Generation last judged.")] = 0
    fingerprint: Annotated[
        str,
        Field(max_length=16, description="Keyed digest of the value: changes when the value does."),
    ] = ""
    last_changed_time: Annotated[Timestamp | None, Field(description="When the value last changed.")] = None


class AgentCredential(Model):
    """A credential of an organisation."""

    RESOURCE: ClassVar[Resource] = Resource(
        kind="AgentCredential",
        plural="agentcredentials",
        singular="agentcredential",
        short="agc",
        columns=(
            Column(name="Ready", path='.status.conditions[?(@.type=="Ready")].status'),
            Column(name="Reason", path='.status.conditions[?(@.type=="Ready")].reason'),
            Column(name="Type", path=".spec.type"),
            Column(name="Secret", path=".spec.source.secretRef.name", priority=1),
            Column(name="Message", path='.status.conditions[?(@.type=="Ready")].message', priority=1),
            Column(name="Age", path=".metadata.creationTimestamp", type="date"),
        ),
        selectable=(".spec.source.secretRef.name",),
    )
    metadata: ObjectMeta
    spec: Annotated[AgentCredentialSpec, Field(description="The credential.")]
    status: Annotated[AgentCredentialStatus, Field(description="What the controller saw.")] = (
        AgentCredentialStatus()
    )
