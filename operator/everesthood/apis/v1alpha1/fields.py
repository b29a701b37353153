"""The vocabulary of the types: bounded strings, lists, durations, and what the CRD says of them.

Every string and list has a bound, because the CEL cost budget of an API server is computed from
the bounds, and because an unbounded field is somebody's outage.
"""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

DNS_LABEL: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_NAME: Final = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
HOST: Final = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?$"
STEP_NAME: Final = r"^[a-z][a-z0-9_]*$"
ENV_NAME: Final = r"^[A-Z][A-Z0-9_]*$"
ENTRYPOINT: Final = r"^[a-zA-Z_][a-zA-Z0-9_.]*:[a-zA-Z_][a-zA-Z0-9_]*$"
DECIMAL: Final = r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,9})?$"
QUANTITY: Final = r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|k|M|G)?$"


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """Return the CEL rules of an object or list: (rule, message) pairs, for `json_schema_extra`."""
    return {"x-kubernetes-validations": [{"rule": r, "message": m} for r, m in pairs]}


class Model(BaseModel):
    """A frozen piece of a resource: camelCase outside, snake_case inside, nothing unknown."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")


SET: Final = {"x-kubernetes-list-type": "set"}
ATOMIC: Final = {"x-kubernetes-list-type": "atomic"}


def list_map(*keys: str) -> dict[str, Any]:
    """Return the marks of a list that server-side apply merges by these keys."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


FREE_FORM: Final = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_NAME)]
StepName = Annotated[str, Field(min_length=1, max_length=40, pattern=STEP_NAME)]
HostName = Annotated[str, Field(min_length=1, max_length=253, pattern=HOST)]
Line = Annotated[str, Field(min_length=1, max_length=200)]
Paragraph = Annotated[str, Field(max_length=4096)]
Message = Annotated[str, Field(max_length=1024)]
Cel = Annotated[str, Field(min_length=1, max_length=4096)]
TemplateText = Annotated[str, Field(max_length=32768)]
ShortTemplate = Annotated[str, Field(min_length=1, max_length=2048)]
Digest = Annotated[str, Field(min_length=10, max_length=64, pattern=r"^[0-9a-f]+$")]
Timestamp = Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
JsonObject = Annotated[dict[str, Any], Field(json_schema_extra=FREE_FORM)]
Seconds = Annotated[int, Field(ge=1, le=86_400)]
Quantity = Annotated[str, Field(max_length=20, pattern=QUANTITY)]
Decimal = Annotated[str, Field(max_length=24, pattern=DECIMAL)]
