"""What a worker reads of a template: the same JSON as AgentTemplateSpec, decoded in microseconds.

The admission webhook has judged the content with the full types of `apis.v1alpha1`; a worker only
executes it and has no memory to spare for them. A test holds both readings equal.
"""

import re
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from everesthood.apis.wire import Program

MAX_OUTPUT_BYTES: Final = 1_048_576
"""Cap on the JSON of one step's or one run's output."""
CLAIM_OUTPUT_BYTES: Final = 65_536
"""Outputs of one run's earlier attempts that a claim carries along; the others are fetched."""
LISTED_OUTPUT_BYTES: Final = 16_384
"""Largest output that a list of steps shows; larger ones are shown one by one."""
PAGE_OUTPUT_BYTES: Final = 2_097_152
"""Outputs in one answer, though the first comes whatever its size."""
MAX_MESSAGE: Final = 1000
"""Longest sentence about a failure, in characters."""

MAX_QUESTION: Final = 4000
"""Longest question to a person, in characters."""

MAX_ITEMS: Final = 1000
"""Most items of one forEach."""
MAX_ITEMS_BYTES: Final = 8_388_608
"""Cap on the JSON of all that the steps of one forEach come to: a resumed run is sent all of it again."""

_UNSAFE_METHODS: Final = frozenset({"POST", "PATCH"})


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A piece of the template; fields that a worker does not need are passed over."""


class Header(_Part, frozen=True, kw_only=True):
    """One HTTP header; the value is a template."""

    name: str
    value: str


class HttpStep(_Part, frozen=True, kw_only=True):
    """One HTTP call."""

    url: str
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    headers: tuple[Header, ...] = ()
    json_body: str | None = msgspec.field(default=None, name="json")
    body: str | None = None
    credential: str | None = None
    max_bytes: int = 1_048_576
    expect: tuple[int, ...] = ()


class ChatMessage(_Part, frozen=True, kw_only=True):
    """One message of a model call; the content is a template."""

    role: Literal["system", "user", "assistant"]
    content: str


class LlmStep(_Part, frozen=True, kw_only=True):
    """One call of an OpenAI-compatible model."""

    endpoint: str
    model: str
    messages: tuple[ChatMessage, ...]
    credential: str | None = None
    output_schema: dict[str, object] | None = None
    max_tokens: int | None = None
    temperature: str | None = None


class TransformStep(_Part, frozen=True, kw_only=True):
    """A value computed in CEL."""

    value: str


class CodeStep(_Part, frozen=True, kw_only=True):
    """The author's own Python."""

    entrypoint: str
    args: str | None = None


class McpStep(_Part, frozen=True, kw_only=True):
    """One MCP tool call."""

    url: str
    tool: str
    arguments: str | None = None
    credential: str | None = None


class AgentTool(_Part, frozen=True, kw_only=True):
    """What a model may call: an HTTP operation, or another agent."""

    name: str
    description: str
    parameters: dict[str, object] = msgspec.field(default_factory=dict)
    http: HttpStep | None = None
    instance: str | None = None


class McpServer(_Part, frozen=True, kw_only=True):
    """Tools of an MCP server."""

    name: str
    url: str
    tools: tuple[str, ...]
    credential: str | None = None

    def offered(self, tool: str) -> str:
        """Return the name that the model knows a tool by."""
        return offered_name(self.name, tool)


def offered_name(server: str, tool: str) -> str:
    """Return the name of a server's tool with nothing in it that models do not take."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{server}_{tool}")


class AgentStep(_Part, frozen=True, kw_only=True):
    """A model in a tool loop."""

    endpoint: str
    model: str
    instructions: str
    prompt: str
    credential: str | None = None
    tools: tuple[AgentTool, ...] = ()
    mcp_servers: tuple[McpServer, ...] = ()
    max_turns: int = 10
    max_tokens: int = 50_000


class ForEachStep(_Part, frozen=True, kw_only=True):
    """A list of steps for each item; none of them is a forEach itself."""

    items: str
    steps: tuple["Step", ...]
    max_parallel: int = 5


class ApprovalStep(_Part, frozen=True, kw_only=True):
    """A question to a person."""

    message: str
    deadline_seconds: int = 86_400
    on_reject: Literal["Fail", "Continue"] = "Fail"


Member = HttpStep | LlmStep | TransformStep | CodeStep | McpStep | AgentStep | ForEachStep | ApprovalStep
KINDS: Final = {
    "http": "http",
    "llm": "llm",
    "transform": "transform",
    "code": "code",
    "mcp": "mcp",
    "agent": "agent",
    "for_each": "forEach",
    "approval": "approval",
}
"""Fields of a step that say what it does, and the names that people know them by."""


class Retry(_Part, frozen=True, kw_only=True):
    """How a failing step is tried again."""

    max_attempts: int = 3
    initial_seconds: int = 1
    max_seconds: int = 60


class Step(_Part, frozen=True, kw_only=True):
    """One node of the agent's graph."""

    name: str
    needs: tuple[str, ...] = ()
    when: str | None = None
    timeout_seconds: int = 300
    idempotent: bool | None = None
    retry: Retry | None = None
    http: HttpStep | None = None
    llm: LlmStep | None = None
    transform: TransformStep | None = None
    code: CodeStep | None = None
    mcp: McpStep | None = None
    agent: AgentStep | None = None
    for_each: ForEachStep | None = None
    approval: ApprovalStep | None = None

    @property
    def member(self) -> Member | None:
        """Return what the step does; None if this version cannot act on it."""
        return next((member for name in KINDS if (member := getattr(self, name)) is not None), None)

    @property
    def kind(self) -> str:
        """Return the member's name, for metrics and messages."""
        return next((shown for name, shown in KINDS.items() if getattr(self, name) is not None), "unknown")

    @property
    def may_repeat(self) -> bool:
        """Return whether the step may be done again when nobody knows if it was done.

        The steps inside a forEach and the tools of an agent are judged one by one.
        """
        if self.idempotent is not None:
            return self.idempotent
        return self.mcp is None and (self.http is None or self.http.method not in _UNSAFE_METHODS)


class Output(_Part, frozen=True, kw_only=True):
    """The run's result."""

    value: str
    output_schema: dict[str, object] | None = msgspec.field(default=None, name="schema")


class Egress(_Part, frozen=True, kw_only=True):
    """Where the agent's steps may call."""

    hosts: tuple[str, ...] = ()


class QueueSpec(_Part, frozen=True, kw_only=True):
    """Whether a failed run may be tried again; how is the record's business."""

    retry: dict[str, int] | None = None


class WorkerSpec(_Part, frozen=True, kw_only=True):
    """How many runs a worker executes at once."""

    slots: int = 20


class AgentSpec(_Part, frozen=True, kw_only=True):
    """The content of a template, as far as a worker needs it."""

    steps: tuple[Step, ...]
    egress: Egress = Egress()
    output: Output | None = None
    worker: WorkerSpec = WorkerSpec()
    queue: QueueSpec = QueueSpec()


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker executes: one revision of a template with one instance's config."""

    namespace: str
    instance: str
    revision: str
    spec: AgentSpec
    config: object
    slots: dict[str, list[str]]
    """Bound credential slots and the hosts that each may be sent to."""
    internal_hosts: frozenset[str]


def called_instances(spec: AgentSpec) -> Iterator[str]:
    """Yield the instances that agent steps may start runs of."""
    for outer in spec.steps:
        for step in (outer, *(outer.for_each.steps if outer.for_each else ())):
            for tool in step.agent.tools if step.agent else ():
                if tool.instance is not None:
                    yield tool.instance


def agent_of(program: Program) -> Agent:
    """Return the program with its JSON read."""
    return Agent(
        namespace=program.namespace,
        instance=program.instance,
        revision=program.revision,
        spec=msgspec.json.decode(program.template, type=AgentSpec),
        config=msgspec.json.decode(program.config),
        slots=program.slots,
        internal_hosts=frozenset(program.internal_hosts),
    )
