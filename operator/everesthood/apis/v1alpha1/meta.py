"""What all kinds share: metadata, conditions, references, and how kubectl shows a kind."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from everesthood.apis.v1alpha1.fields import Message, Model, Name, Timestamp, list_map


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of `kubectl get`; priority 1 shows it only with `-o wide`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """How a kind is served."""

    kind: str
    plural: str
    singular: str
    short: str
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()
    scale: dict[str, str] | None = None
    scope: Literal["Namespaced", "Cluster"] = "Namespaced"


class Condition(Model):
    """One observation of an object, as `metav1.Condition`."""

    type: Annotated[str, Field(max_length=64, description="What is judged, such as Ready.")]
    status: Annotated[Literal["True", "False", "Unknown"], Field(description="The verdict.")]
    reason: Annotated[str, Field(max_length=64, description="Why, as one CamelCase word of the catalogue.")]
    message: Annotated[Message, Field(description="Why, as a sentence for a person.")] = ""
    last_transition_time: Annotated[Timestamp, Field(description="When the status last changed.")]
    observed_generation: Annotated[
        int, Field(ge=0, description="Generation of the spec that was judged.")
    ] = 0


Conditions = Annotated[
    list[Condition],
    Field(
        max_length=16,
        json_schema_extra=list_map("type"),
        description="What the controller last saw, in the order in which it judges.",
    ),
]


class LocalRef(Model):
    """A reference by name within the namespace."""

    name: Annotated[Name, Field(description="Name of the object, in the same namespace.")]


class ObjectMeta(Model):
    """The part of `metadata` that rules look at; the API server owns the rest."""

    model_config: ClassVar[Any] = {**Model.model_config, "extra": "ignore"}

    name: Name
    namespace: Annotated[str, Field(max_length=63)] = ""
    uid: Annotated[str, Field(max_length=64)] = ""
    generation: int = 0
