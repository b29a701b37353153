"""AgentTemplate: what an agent is."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from everesthood.apis.v1alpha1.fields import (
    ENV_NAME,
    SET,
    Cel,
    Decimal,
    Digest,
    HostName,
    JsonObject,
    Line,
    Model,
    Name,
    Paragraph,
    Quantity,
    list_map,
    rules,
)
from everesthood.apis.v1alpha1.limits import Limits
from everesthood.apis.v1alpha1.meta import Column, Conditions, ObjectMeta, Resource
from everesthood.apis.v1alpha1.steps import Step


class CredentialSlot(Model):
    """A credential that the agent needs; an instance binds one of its own to it."""

    name: Annotated[Name, Field(description="Name that steps use.")]
    description: Annotated[Paragraph, Field(description="What it is for, for the person who binds it.")] = ""
    required: Annotated[
        Literal["Always", "Optional"], Field(description="Whether an instance must bind it.")
    ] = "Always"
    hosts: Annotated[
        list[HostName],
        Field(
            min_length=1,
            max_length=20,
            json_schema_extra=SET,
            description="The only hosts that the value is sent to, `host` or `host:port`.",
        ),
    ]


class Egress(Model):
    """Where the agent's steps may call."""

    hosts: Annotated[
        list[HostName],
        Field(max_length=50, json_schema_extra=SET, description="Hosts, `host` or `host:port`."),
    ] = []


class Resources(Model):
    """Compute of one worker pod."""

    cpu: Annotated[Quantity, Field(description="CPU requested, such as 100m.")] = "50m"
    memory: Annotated[Quantity, Field(description="Memory requested and the limit.")] = "256Mi"
    cpu_limit: Annotated[Quantity, Field(description="CPU limit.")] = "1"


class EnvVar(Model):
    """A plain environment variable of the worker. Secrets are never put here."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=ENV_NAME, description="Name.")]
    value: Annotated[str, Field(max_length=2048, description="Literal value.")]


class WorkerSpec(Model):
    """How the agent's workers are built."""

    image: Annotated[
        str | None,
        Field(
            max_length=500,
            description=(
                "Image with the author's code, built on Everesthood's; absent means Everesthood's own."
            ),
        ),
    ] = None
    slots: Annotated[int, Field(ge=1, le=500, description="Runs that one worker executes at once.")] = 20
    resources: Annotated[Resources, Field(description="Compute of one worker.")] = Resources()
    env: Annotated[
        list[EnvVar],
        Field(
            max_length=50,
            json_schema_extra=list_map("name"),
            description="Plain environment variables.",
        ),
    ] = []


class RunRetry(Model):
    """How a failed run is tried again: exponential backoff with full jitter."""

    max_attempts: Annotated[int, Field(ge=1, le=20, description="Attempts that may fail, in all.")] = 3
    initial_seconds: Annotated[int, Field(ge=1, le=3600, description="Longest first pause.")] = 10
    max_seconds: Annotated[int, Field(ge=1, le=86_400, description="Longest pause.")] = 600


class QueueSpec(Model):
    """Limits of a run."""

    max_attempts: Annotated[
        int, Field(ge=1, le=20, description="Workers that may die under a run before it is dead.")
    ] = 5
    max_run_seconds: Annotated[
        int, Field(ge=1, le=604_800, description="Longest time of a run, from its first start.")
    ] = 3600
    retry: Annotated[
        RunRetry | None,
        Field(
            description=(
                "Attempts after a transient failure, each from the last checkpoint; absent means none."
            )
        ),
    ] = None


class Output(Model):
    """The run's result."""

    value: Annotated[
        Cel, Field(description="CEL expression of the output; absent output means the last step's.")
    ]
    output_schema: Annotated[
        JsonObject | None,
        Field(alias="schema", description="JSON Schema that the output must match."),
    ] = None


class Price(Model):
    """What one unit of a component costs."""

    component: Annotated[
        Literal["run", "inputTokens", "outputTokens", "seconds"],
        Field(description="What is counted."),
    ]
    amount: Annotated[Decimal, Field(description="Price of one unit, as a decimal string.")]
    currency: Annotated[
        str, Field(min_length=3, max_length=3, pattern="^[A-Z]{3}$", description="ISO 4217 code.")
    ]


class Plan(Model):
    """An offer that an instance can choose."""

    name: Annotated[Name, Field(description="Name of the plan.")]
    display_name: Annotated[Line | None, Field(description="Name for people.")] = None
    prices: Annotated[
        list[Price],
        Field(
            max_length=10,
            json_schema_extra=list_map("component"),
            description="Prices of the plan.",
        ),
    ] = []


class AgentTemplateSpec(Model):
    """The content of a template. Each accepted content is kept as a revision."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": rules(
            ("self.steps.exists(s, s.needs.size() == 0)", "at least one step must need no other"),
        ),
    }

    display_name: Annotated[Line, Field(description="Name for people.")]
    description: Annotated[Paragraph, Field(description="What the agent does, in Markdown.")] = ""
    input_schema: Annotated[
        JsonObject, Field(description="JSON Schema (Draft 2020-12) of a run's input.")
    ] = {}
    config_schema: Annotated[
        JsonObject, Field(description="JSON Schema (Draft 2020-12) of an instance's config.")
    ] = {}
    credentials: Annotated[
        list[CredentialSlot],
        Field(max_length=20, json_schema_extra=list_map("name"), description="Credential slots."),
    ] = []
    egress: Annotated[Egress, Field(description="Where steps may call.")] = Egress()
    steps: Annotated[
        list[Step],
        Field(
            min_length=1,
            max_length=50,
            json_schema_extra=list_map("name"),
            description="The agent's graph.",
        ),
    ]
    output: Annotated[
        Output | None, Field(description="The run's result; absent: the output of the last step.")
    ] = None
    worker: Annotated[WorkerSpec, Field(description="How workers are built.")] = WorkerSpec()
    queue: Annotated[QueueSpec, Field(description="Limits of a run.")] = QueueSpec()
    limits: Annotated[
        Limits | None,
        Field(
            description=(
                "Limits of all instances of the template together, whichever revisions they are on. An"
                " instance can set stricter ones of its own, not looser."
            )
        ),
    ] = None
    plans: Annotated[
        list[Plan],
        Field(max_length=10, json_schema_extra=list_map("name"), description="Offers."),
    ] = []


class AgentTemplateStatus(Model):
    """What the controller saw."""

    conditions: Conditions = []
    observed_generation: Annotated[int, Field(ge=0, description="Generation last judged.")] = 0
    revision: Annotated[Digest | None, Field(description="Digest of the newest accepted content.")] = None
    instances: Annotated[int, Field(ge=0, description="AgentInstances that use the template.")] = 0


class AgentTemplate(Model):
    """An agent that organisations can run."""

    RESOURCE: ClassVar[Resource] = Resource(
        kind="AgentTemplate",
        plural="agenttemplates",
        singular="agenttemplate",
        short="agt",
        columns=(
            Column(name="Ready", path='.status.conditions[?(@.type=="Ready")].status'),
            Column(name="Reason", path='.status.conditions[?(@.type=="Ready")].reason'),
            Column(name="Name", path=".spec.displayName"),
            Column(name="Instances", path=".status.instances", type="integer"),
            Column(name="Revision", path=".status.revision", priority=1),
            Column(name="Message", path='.status.conditions[?(@.type=="Ready")].message', priority=1),
            Column(name="Age", path=".metadata.creationTimestamp", type="date"),
        ),
    )
    metadata: ObjectMeta
    spec: Annotated[AgentTemplateSpec, Field(description="What the agent is.")]
    status: Annotated[AgentTemplateStatus, Field(description="What the controller saw.")] = (
        AgentTemplateStatus()
    )
