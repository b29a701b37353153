"""Steps: finds the one who does a kind of step, and lets no credential out in what comes of it."""

from collections.abc import Sequence

import msgspec

from everesthood.adapters.steps.agent_step import AgentRunner
from everesthood.adapters.steps.agent_tools import Ways
from everesthood.adapters.steps.child_runs import ChildRuns
from everesthood.adapters.steps.code_step import CodeRunner
from everesthood.adapters.steps.http_step import HttpRunner
from everesthood.adapters.steps.llm_step import LlmRunner
from everesthood.adapters.steps.mcp_step import McpRunner
from everesthood.adapters.steps.transform_step import TransformRunner
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import ExpressionFailed, StepFailed
from everesthood.domain.steps import AgentStep, CodeStep, HttpStep, LlmStep, McpStep, Step, TransformStep
from everesthood.usecases.expressions import Expressions
from everesthood.usecases.ports.worker import Children, Credentials, Outbound, Scope


class Steps:
    """The port `StepRunner`, for all kinds but forEach, which is made of steps itself."""

    def __init__(
        self,
        *,
        expressions: Expressions,
        outbound: Outbound,
        credentials: Credentials,
        children: Children | None = None,
    ) -> None:
        """Do steps with these; without `children` no agent can call another."""
        self._credentials = credentials
        self._http = HttpRunner(expressions, outbound)
        self._llm = LlmRunner(expressions, outbound)
        self._transform = TransformRunner(expressions)
        self._mcp = McpRunner(expressions, outbound)
        ways = Ways(http=self._http, mcp=self._mcp, children=ChildRuns(children))
        self._agent = AgentRunner(expressions, self._llm, ways, credentials)
        self._code = CodeRunner(expressions, outbound, credentials)

    def trouble(self) -> str | None:
        """Return why only a new process can go on doing steps."""
        return self._code.trouble()

    async def prepare(self, steps: Sequence[Step]) -> None:
        """Find the Python that code steps name, so that a worker without it never says it is ready.

        Raises StepFailed with the path of the step at fault.
        """
        await self._prepare("spec.steps", steps)

    async def _prepare(self, path: str, steps: Sequence[Step]) -> None:
        for index, step in enumerate(steps):
            if step.code is not None:
                await self._code.find(step.code.entrypoint, f"{path}[{index}].code.entrypoint")
            if step.for_each is not None:
                await self._prepare(f"{path}[{index}].forEach.steps", step.for_each.steps)

    async def run(self, scope: Scope) -> object:
        """Do the step once and return its output without any leased credential in it."""
        try:
            output = await self._run(scope)
        except (StepFailed, ExpressionFailed) as error:
            error.message = self._credentials.redact(error.message)
            raise
        return self._clean(output)

    async def _run(self, scope: Scope) -> object:
        match scope.step.member:
            case HttpStep() as step:
                return await self._http.run(scope, step)
            case LlmStep() as step:
                return await self._llm.run(scope, step)
            case TransformStep() as step:
                return await self._transform.run(scope, step)
            case CodeStep() as step:
                return await self._code.run(scope, step)
            case McpStep() as step:
                return await self._mcp.run(scope, step)
            case AgentStep() as step:
                return await self._agent.run(scope, step)
            case _:
                pass
        raise StepFailed("this version cannot run such a step", Reason.NOT_YET_SUPPORTED)

    def _clean(self, output: object) -> object:
        try:
            text = msgspec.json.encode(output).decode()
        except (TypeError, ValueError, RecursionError, OverflowError):
            return output  # whoever stores it says what is wrong
        clean = self._credentials.redact(text)
        return output if clean == text else msgspec.json.decode(clean)
