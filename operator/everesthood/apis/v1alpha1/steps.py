"""The steps of an agent: a union of members, exactly one of which is set in each step."""

from typing import Annotated, Any, Literal

from pydantic import Field

from everesthood.apis.v1alpha1.fields import (
    ATOMIC,
    ENTRYPOINT,
    SET,
    Cel,
    Decimal,
    JsonObject,
    Line,
    Model,
    Name,
    Seconds,
    ShortTemplate,
    StepName,
    TemplateText,
    list_map,
    rules,
)

MEMBERS = ("llm", "agent", "http", "mcp", "transform", "forEach", "code", "approval")
LEAF_MEMBERS = tuple(m for m in MEMBERS if m != "forEach")


class Header(Model):
    """One HTTP header; a credential is never written here, name its slot instead."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9-]+$", description="Header name."),
    ]
    value: Annotated[str, Field(max_length=2048, description="Header value, a template.")]


class HttpStep(Model):
    """One HTTP call through the guarded client."""

    method: Annotated[
        Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        Field(description="HTTP method. GET, HEAD, PUT and DELETE count as idempotent."),
    ] = "GET"
    url: Annotated[
        ShortTemplate,
        Field(description="Address, a template. Its host must be listed in spec.egress.hosts."),
    ]
    headers: Annotated[
        list[Header],
        Field(max_length=20, json_schema_extra=list_map("name"), description="Request headers."),
    ] = []
    json_body: Annotated[
        Cel | None, Field(alias="json", description="CEL expression whose value is sent as JSON.")
    ] = None
    body: Annotated[TemplateText | None, Field(description="Text body, a template.")] = None
    credential: Annotated[
        Name | None,
        Field(description="Slot whose value is added to the request, to its hosts only."),
    ] = None
    max_bytes: Annotated[
        int, Field(ge=1, le=4_194_304, description="Cap on the answer's size, in bytes.")
    ] = 1_048_576
    expect: Annotated[
        list[Annotated[int, Field(ge=100, le=599)]],
        Field(
            max_length=20,
            json_schema_extra=SET,
            description="Accepted statuses; empty means 200 to 299.",
        ),
    ] = []


class ChatMessage(Model):
    """One message of a model call."""

    role: Annotated[Literal["system", "user", "assistant"], Field(description="Who speaks.")]
    content: Annotated[TemplateText, Field(description="What is said, a template.")]


class LlmStep(Model):
    """One call of an OpenAI-compatible model."""

    endpoint: Annotated[
        ShortTemplate,
        Field(
            description=(
                "Base address up to and including /v1, a template. "
                "Its host must be listed in spec.egress.hosts."
            )
        ),
    ]
    model: Annotated[ShortTemplate, Field(description="Model name, a template.")]
    credential: Annotated[Name | None, Field(description="Slot of the API key, sent as a bearer token.")] = (
        None
    )
    messages: Annotated[
        list[ChatMessage],
        Field(min_length=1, max_length=50, json_schema_extra=ATOMIC, description="The conversation."),
    ]
    output_schema: Annotated[
        JsonObject | None,
        Field(description="JSON Schema (Draft 2020-12) of the answer; absent means text."),
    ] = None
    max_tokens: Annotated[int | None, Field(ge=1, le=200_000, description="Cap on the answer.")] = None
    temperature: Annotated[
        Decimal | None, Field(description="Sampling temperature, as a decimal string.")
    ] = None


class TransformStep(Model):
    """A value computed in CEL over the input, the config and earlier outputs."""

    value: Annotated[Cel, Field(description="CEL expression over `input`, `config`, `steps` and `run`.")]


class CodeStep(Model):
    """The author's own Python in the worker image."""

    entrypoint: Annotated[
        str,
        Field(
            max_length=200,
            pattern=ENTRYPOINT,
            description="`package.module:function`, called with a Context.",
        ),
    ]
    args: Annotated[Cel | None, Field(description="CEL expression whose value is `ctx.args`.")] = None


class AgentTool(Model):
    """What a model may call: an HTTP operation, or another agent."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": rules(
            ("has(self.http) != has(self.instance)", "set exactly one of http, instance")
        ),
    }

    name: Annotated[StepName, Field(description="Name that the model calls.")]
    description: Annotated[Line, Field(description="What it does, for the model.")]
    parameters: Annotated[
        JsonObject,
        Field(
            description=(
                "JSON Schema (Draft 2020-12) of the arguments that the model gives, an object; "
                "absent means any."
            )
        ),
    ] = {}
    http: Annotated[
        HttpStep | None,
        Field(
            description=(
                "The call; its templates and expressions also see the model's arguments, `args`. "
                "The model sees the answer's status and body, whatever the status."
            )
        ),
    ] = None
    instance: Annotated[
        Name | None,
        Field(
            description=(
                "AgentInstance of the same namespace. The arguments are the input of a run of it, "
                "and the model sees that run's output."
            )
        ),
    ] = None


class McpServer(Model):
    """Tools of an MCP server over streamable HTTP; their descriptions and parameters are the server's."""

    name: Annotated[
        StepName, Field(description="Name before each tool's own: the model calls `<name>_<tool>`.")
    ]
    url: Annotated[
        ShortTemplate,
        Field(description="Address of the server, a template. Its host must be listed in spec.egress.hosts."),
    ]
    credential: Annotated[
        Name | None,
        Field(description="Slot whose value is added to the requests, to its hosts only."),
    ] = None
    tools: Annotated[
        list[Line],
        Field(
            min_length=1,
            max_length=20,
            json_schema_extra=SET,
            description="Names of the tools that the model may call; all others of the server stay shut.",
        ),
    ]


class AgentStep(Model):
    """A model in a tool loop; each turn and each tool call is a checkpoint."""

    endpoint: Annotated[
        ShortTemplate,
        Field(
            description=(
                "Base address of an OpenAI-compatible model up to and including /v1, a template. "
                "Its host must be listed in spec.egress.hosts."
            )
        ),
    ]
    model: Annotated[ShortTemplate, Field(description="Model name, a template.")]
    credential: Annotated[Name | None, Field(description="Slot of the API key, sent as a bearer token.")] = (
        None
    )
    instructions: Annotated[TemplateText, Field(description="System prompt, a template.")]
    prompt: Annotated[TemplateText, Field(description="The task, a template.")]
    tools: Annotated[
        list[AgentTool],
        Field(
            max_length=20,
            json_schema_extra=list_map("name"),
            description="What the model may call.",
        ),
    ] = []
    mcp_servers: Annotated[
        list[McpServer],
        Field(
            max_length=5,
            json_schema_extra=list_map("name"),
            description="MCP servers whose tools the model may call.",
        ),
    ] = []
    max_turns: Annotated[
        int, Field(ge=1, le=100, description="Model calls; without a final answer by then the step fails.")
    ] = 10
    max_tokens: Annotated[
        int,
        Field(ge=1, le=1_000_000, description="Tokens, in and out; once they are used no turn is begun."),
    ] = 50_000


class McpStep(Model):
    """One MCP tool call over streamable HTTP; its output is the structured content, or else the text."""

    url: Annotated[
        ShortTemplate,
        Field(description="Address of the server, a template. Its host must be listed in spec.egress.hosts."),
    ]
    tool: Annotated[Line, Field(description="Tool name.")]
    arguments: Annotated[
        Cel | None, Field(description="CEL expression of the arguments, an object; absent means none.")
    ] = None
    credential: Annotated[
        Name | None,
        Field(description="Slot whose value is added to the requests, to its hosts only."),
    ] = None


class ApprovalStep(Model):
    """Waits for a person; the output is `{approved, by, comment, at}`."""

    message: Annotated[
        TemplateText,
        Field(
            description=(
                "What is to be approved, a template. Whoever may list runs sees it, "
                "up to 4000 characters of it."
            )
        ),
    ]
    deadline_seconds: Annotated[
        int, Field(ge=60, le=2_592_000, description="Longest wait for an answer; then the step fails.")
    ] = 86_400
    on_reject: Annotated[
        Literal["Fail", "Continue"],
        Field(
            description=(
                "What a no does. `Fail`: the step fails, and with it the run. "
                "`Continue`: the run goes on, and `approved` of the output is false."
            )
        ),
    ] = "Fail"


class Retry(Model):
    """How a failing step is tried again: exponential backoff with full jitter."""

    max_attempts: Annotated[int, Field(ge=1, le=20, description="Tries in all.")] = 3
    initial_seconds: Annotated[int, Field(ge=1, le=3600, description="Longest first pause.")] = 1
    max_seconds: Annotated[int, Field(ge=1, le=3600, description="Longest pause.")] = 60


def exactly_one(members: tuple[str, ...]) -> dict[str, Any]:
    """Return the CEL rule that a step has exactly one member."""
    count = " + ".join(f"(has(self.{m}) ? 1 : 0)" for m in members)
    return rules((f"{count} == 1", f"set exactly one of {', '.join(members)}"))


class LeafStep(Model):
    """A step inside forEach: everything but another forEach."""

    model_config = {**Model.model_config, "json_schema_extra": exactly_one(LEAF_MEMBERS)}

    name: Annotated[StepName, Field(description="Name, unique in the list; outputs are `steps.<name>`.")]
    needs: Annotated[
        list[StepName],
        Field(max_length=20, json_schema_extra=SET, description="Steps that must finish first."),
    ] = []
    when: Annotated[Cel | None, Field(description="CEL condition; false skips the step.")] = None
    timeout_seconds: Annotated[
        Seconds, Field(description="Longest time for one try; of a `forEach` for all its items.")
    ] = 300
    idempotent: Annotated[
        bool | None,
        Field(
            description=(
                "Whether the step may be repeated when its outcome is unknown. "
                "Absent: by kind; `http` POST and PATCH and `mcp` are not, all else is. "
                "The steps inside `forEach` and the tools of `agent` are judged one by one."
            )
        ),
    ] = None
    retry: Annotated[Retry | None, Field(description="Tries after a failure; absent means none.")] = None
    llm: Annotated[LlmStep | None, Field(description="Call a model once.")] = None
    agent: Annotated[AgentStep | None, Field(description="Let a model work with tools.")] = None
    http: Annotated[HttpStep | None, Field(description="Call an HTTP address.")] = None
    mcp: Annotated[McpStep | None, Field(description="Call an MCP tool.")] = None
    transform: Annotated[TransformStep | None, Field(description="Compute a value.")] = None
    code: Annotated[CodeStep | None, Field(description="Run the author's Python.")] = None
    approval: Annotated[ApprovalStep | None, Field(description="Wait for a person.")] = None


class ForEachStep(Model):
    """A list of steps run for each item."""

    items: Annotated[
        Cel, Field(description="CEL expression of the items, a list of at most 1000; computed once.")
    ]
    max_parallel: Annotated[int, Field(ge=1, le=100, description="Items at once.")] = 5
    steps: Annotated[
        list[LeafStep],
        Field(
            min_length=1,
            max_length=10,
            json_schema_extra=list_map("name"),
            description=(
                "Steps for each item; `item` and `index` are in scope, and the steps that this one needs. "
                "The output is the list of each item's last output, in the order of the items."
            ),
        ),
    ]


class Step(LeafStep):
    """One node of the agent's graph."""

    model_config = {**Model.model_config, "json_schema_extra": exactly_one(MEMBERS)}

    for_each: Annotated[ForEachStep | None, Field(description="Run steps for each item.")] = None
