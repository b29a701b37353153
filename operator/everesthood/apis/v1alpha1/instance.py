"""AgentInstance: an organisation's subscription to a template."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from everesthood.apis.v1alpha1.fields import (
    Digest,
    JsonObject,
    Line,
    Model,
    Name,
    list_map,
    rules,
)
from everesthood.apis.v1alpha1.limits import Limits
from everesthood.apis.v1alpha1.meta import Column, Conditions, LocalRef, ObjectMeta, Resource


class CredentialBinding(Model):
    """Which AgentCredential fills a slot."""

    slot: Annotated[Name, Field(description="Slot of the template.")]
    credential_ref: Annotated[LocalRef, Field(description="AgentCredential in the namespace.")]


class Schedule(Model):
    """When runs start by themselves: at the times of `cron`, or once, at `at`."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": rules(
            ("has(self.cron) != has(self.at)", "set exactly one of cron and at"),
        ),
    }

    name: Annotated[Name, Field(description="Name of the schedule.")]
    cron: Annotated[
        str | None,
        Field(
            min_length=9,
            max_length=100,
            description="Five cron fields: minute, hour, day of month, month, day of week.",
        ),
    ] = None
    time_zone: Annotated[
        str, Field(min_length=1, max_length=64, description="IANA time zone in which cron is read.")
    ] = "Etc/UTC"
    at: Annotated[
        str | None,
        Field(
            max_length=40,
            json_schema_extra={"format": "date-time"},
            description="The one time of a schedule without cron, as in RFC 3339.",
        ),
    ] = None
    overlap: Annotated[
        Literal["Allow", "Skip", "Queue", "CancelPrevious"],
        Field(description="What happens at a time at which an earlier run of the schedule is not over."),
    ] = "Skip"
    missed: Annotated[
        Literal["Skip", "Latest", "All"],
        Field(description="Which times are made up for that passed by more than a minute ago."),
    ] = "Latest"
    max_missed: Annotated[
        int, Field(ge=1, le=100, description="Most times that `missed: All` makes up for, the latest ones.")
    ] = 10
    jitter_seconds: Annotated[
        int, Field(ge=0, le=3600, description="Runs start up to so many seconds after the time.")
    ] = 0
    suspend: Annotated[
        bool, Field(description="True stops this schedule; `missed` says what is made up for later.")
    ] = False
    input: Annotated[
        JsonObject, Field(description="Input of the runs, matching the template's inputSchema.")
    ] = {}


class Autoscaling(Model):
    """Bounds within which the number of workers follows the work."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": rules(
            ("self.minReplicas <= self.maxReplicas", "minReplicas must not be above maxReplicas"),
        ),
    }

    min_replicas: Annotated[
        int, Field(ge=0, le=100, description="Fewest worker pods; with 0 the next run starts one.")
    ] = 0
    max_replicas: Annotated[int, Field(ge=1, le=100, description="Most worker pods.")]
    idle_seconds: Annotated[
        int,
        Field(ge=5, le=3600, description="How long workers must have been more than needed before they go."),
    ] = 60


class Workers(Model):
    """How many workers run: a fixed number, or as many as the work needs."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": rules(
            (
                "!has(self.autoscaling) || self.replicas == 1",
                "replicas is a fixed number of workers; leave it out (or 1) beside autoscaling",
            ),
        ),
    }

    replicas: Annotated[int, Field(ge=0, le=100, description="Worker pods, without autoscaling.")] = 1
    autoscaling: Annotated[
        Autoscaling | None, Field(description="Follow the work instead; replicas is then left out.")
    ] = None

    @property
    def most(self) -> int:
        """Return the most worker pods that a revision may have."""
        return self.autoscaling.max_replicas if self.autoscaling else self.replicas


class AgentInstanceSpec(Model):
    """What the organisation wants to run."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": rules(
            (
                "self.updatePolicy != 'Manual' || has(self.revision)",
                "updatePolicy Manual needs revision",
            ),
            (
                "self.updatePolicy == 'Manual' || !has(self.revision)",
                "revision is only for updatePolicy Manual",
            ),
        ),
    }

    template_ref: Annotated[
        LocalRef,
        Field(
            description="AgentTemplate in the namespace. It cannot be changed.",
            json_schema_extra=rules(
                ("self == oldSelf", "templateRef cannot be changed; make a new AgentInstance")
            ),
        ),
    ]
    display_name: Annotated[Line | None, Field(description="Name for people.")] = None
    update_policy: Annotated[
        Literal["Automatic", "Manual"],
        Field(description="Follow the template's newest revision, or stay on `revision`."),
    ] = "Automatic"
    revision: Annotated[
        Digest | None, Field(description="Revision to stay on, with updatePolicy Manual.")
    ] = None
    plan: Annotated[Name | None, Field(description="Plan of the template.")] = None
    config: Annotated[
        JsonObject, Field(description="Configuration, matching the template's configSchema.")
    ] = {}
    credentials: Annotated[
        list[CredentialBinding],
        Field(
            max_length=20,
            json_schema_extra=list_map("slot"),
            description="Credential for each slot.",
        ),
    ] = []
    schedules: Annotated[
        list[Schedule],
        Field(
            max_length=20,
            json_schema_extra=list_map("name"),
            description="Runs that start by themselves.",
        ),
    ] = []
    workers: Annotated[Workers, Field(description="How many workers run.")] = Workers()
    limits: Annotated[
        Limits | None,
        Field(
            description="Limits of this instance's runs. The template's hold as well: the stricter counts."
        ),
    ] = None
    suspend: Annotated[bool, Field(description="True stops new starts; accepted runs wait.")] = False


class RevisionStatus(Model):
    """Which content of the template runs."""

    desired: Annotated[Digest | None, Field(description="Revision that should run.")] = None
    current: Annotated[Digest | None, Field(description="Revision that new runs start on.")] = None
    last_good: Annotated[
        Digest | None, Field(description="Last revision whose workers became available.")
    ] = None


class WorkersStatus(Model):
    """Worker pods of the current revision."""

    desired: Annotated[int, Field(ge=0, description="Worker pods that there should be.")] = 0
    reason: Annotated[
        str | None, Field(max_length=64, description="Why there should be so many, such as ScaledToDemand.")
    ] = None
    replicas: Annotated[int, Field(ge=0, description="Worker pods.")] = 0
    available: Annotated[int, Field(ge=0, description="Worker pods that are available.")] = 0
    selector: Annotated[str, Field(max_length=512, description="Label selector of the worker pods.")] = ""


class AgentInstanceStatus(Model):
    """What the controller saw."""

    conditions: Conditions = []
    observed_generation: Annotated[int, Field(ge=0, description="Generation last judged.")] = 0
    revision: Annotated[RevisionStatus, Field(description="Which content runs.")] = RevisionStatus()
    workers: Annotated[WorkersStatus, Field(description="Worker pods.")] = WorkersStatus()


class AgentInstance(Model):
    """An agent at work for an organisation."""

    RESOURCE: ClassVar[Resource] = Resource(
        kind="AgentInstance",
        plural="agentinstances",
        singular="agentinstance",
        short="agi",
        columns=(
            Column(name="Ready", path='.status.conditions[?(@.type=="Ready")].status'),
            Column(name="Reason", path='.status.conditions[?(@.type=="Ready")].reason'),
            Column(name="Template", path=".spec.templateRef.name"),
            Column(name="Workers", path=".status.workers.available", type="integer"),
            Column(name="Revision", path=".status.revision.current", priority=1),
            Column(name="Message", path='.status.conditions[?(@.type=="Ready")].message', priority=1),
            Column(name="Age", path=".metadata.creationTimestamp", type="date"),
        ),
        selectable=(".spec.templateRef.name",),
        scale={
            "specReplicasPath": ".spec.workers.replicas",
            "statusReplicasPath": ".status.workers.replicas",
            "labelSelectorPath": ".status.workers.selector",
        },
    )
    metadata: ObjectMeta
    spec: Annotated[AgentInstanceSpec, Field(description="What the organisation wants.")]
    status: Annotated[AgentInstanceStatus, Field(description="What the controller saw.")] = (
        AgentInstanceStatus()
    )
