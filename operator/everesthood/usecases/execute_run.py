"""One attempt of a run: go on from its checkpoints, do what is ready side by side, say what it came to."""

import asyncio
import time
from collections.abc import Mapping

import msgspec

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import EMPTY, Ask, Assignment, Finish, StepRecord
from everesthood.domain import graph
from everesthood.domain.errors import EveresthoodError, KeyHeld, StepFailed
from everesthood.domain.steps import MAX_MESSAGE, Agent, Step
from everesthood.usecases.ask_approval import ask_approval
from everesthood.usecases.execute_for_each import execute_for_each
from everesthood.usecases.execute_step import Doing, StepEnd, encoded, execute_step, hand_in, variables
from everesthood.usecases.ports.worker import Course, Journal, Scope
from everesthood.usecases.side_by_side import SideBySide


async def execute_run(assignment: Assignment, journal: Journal, *, agent: Agent, doing: Doing) -> Finish:
    """Execute the run from its last checkpoint and return what to hand in."""
    attempt = _Attempt(assignment, journal, agent, doing)
    try:
        attempt.check_past()
        async with asyncio.timeout(assignment.seconds_left):
            await attempt.do_steps()
            if attempt.asks:
                return attempt.waiting()
            output = await attempt.output()
    except TimeoutError:
        return attempt.timed_out()
    except _Ended as ended:
        finish = attempt.finish(ended.outcome, reason=ended.reason, message=ended.message)
        return attempt.hopeful(finish, ended.failure)
    except EveresthoodError as error:
        return attempt.hopeful(attempt.finish("failed", reason=error.reason, message=error.message), error)
    return attempt.finish("succeeded", output=output, reason=Reason.SUCCEEDED)


class _Ended(Exception):  # noqa: N818 - it ends an attempt and is no error of ours
    """The attempt is over, before its output."""

    def __init__(
        self, outcome: str, reason: str, step: str, message: str, failure: EveresthoodError | None = None
    ) -> None:
        self.outcome = outcome
        self.reason = reason
        self.failure = failure
        self.message = f"steps.{step}: {message}"
        super().__init__(self.message)


class _Attempt:
    """The state of one attempt."""

    def __init__(self, assignment: Assignment, journal: Journal, agent: Agent, doing: Doing) -> None:
        self._assignment = assignment
        self._journal = journal
        self._agent = agent
        self._doing = doing
        self._steps = agent.spec.steps
        self._past: dict[str, StepRecord] = {
            record.name: record for record in assignment.steps if not _was_held(record)
        }
        self._values: dict[str, object] = {
            name: msgspec.json.decode(self._past[name].output) for name in graph.done(self._past)
        }
        self._ends_at = time.monotonic() + assignment.seconds_left
        self._given = {"input": msgspec.json.decode(assignment.input), "config": agent.config}
        self._course = Course()
        self._under_way: SideBySide[Step] = SideBySide(self._course, lambda step: step.name)
        self._ended: _Ended | None = None
        self.asks: dict[str, Ask] = {}
        """Questions to people, by step: what needs these steps cannot go on."""

    def check_past(self) -> None:
        """End at once where an earlier attempt already decided it."""
        doubt = graph.in_doubt(self._steps, self._past)
        if doubt is not None:
            raise _Ended("ambiguous", Reason.OUTCOME_UNKNOWN, doubt.name, graph.IN_DOUBT)
        failed = graph.failed(self._steps, self._past)
        if failed is not None:
            raise _Ended("failed", failed.reason, failed.name, failed.message)

    async def do_steps(self) -> None:
        """Do all steps, each as soon as what it needs is done, as far as that goes without a person."""
        try:
            while (ready := self._ready()) or self._under_way:
                if len(ready) == 1 and not self._under_way:
                    await self._do_alone(ready[0])
                else:
                    await self._do_beside(ready)
                if self._ended is not None:
                    self._settle(await self._under_way.wind_down())
                    raise self._ended
        except asyncio.CancelledError as cancelled:
            self._settle(await self._under_way.abandon(*cancelled.args[:1]))
            raise
        finally:
            self._settle(await self._under_way.abandon())
        left = [step.name for step in self._steps if step.name not in self._values]
        if left and not self.asks:
            raise StepFailed(f"no step can start, yet these are not done: {', '.join(left)}")

    def _ready(self) -> tuple[Step, ...]:
        busy = {step.name for step in self._under_way}
        return graph.ready(self._steps, self._values, busy | self.asks.keys())

    async def _do_alone(self, step: Step) -> None:
        """Do the only step there is to do; most runs are chains, and need no task for each step."""
        self._take_in(step, await self._do(step))

    async def _do_beside(self, ready: tuple[Step, ...]) -> None:
        """Start steps beside those under way, and wait until the first of all ends."""
        for step in ready:
            self._under_way.start(step, self._do(step))
        self._settle(await self._under_way.first())

    async def _do(self, step: Step) -> StepEnd:
        execute = execute_step if step.for_each is None else execute_for_each
        if step.approval is not None:
            execute = ask_approval
        return await execute(self._scope(step), self._doing)

    def _scope(self, step: Step) -> Scope:
        assignment = self._assignment
        return Scope(
            run=assignment.run,
            attempt=assignment.attempt,
            request_id=assignment.request_id,
            step=step,
            fence=assignment.fence,
            ends_at=self._ends_at,
            variables=self._variables(),
            journal=self._journal,
            earlier=self._past,
            course=self._course,
        )

    def _variables(self) -> Mapping[str, object]:
        steps = graph.outputs(self._steps, self._values)
        return variables(self._assignment.run, self._assignment.attempt, self._given, steps)

    def _settle(self, ends: list[tuple[Step, StepEnd]]) -> None:
        for step, end in sorted(ends, key=lambda e: self._steps.index(e[0])):
            self._take_in(step, end)

    def _take_in(self, step: Step, end: StepEnd) -> None:
        if end.ask is not None:
            self.asks[step.name] = end.ask
            return
        hand_in(end, step, self._journal, self._doing.figures)
        if end.is_unknown:
            said = f"{end.record.message}; whether it took effect is not known"
            self._ended = _Ended("ambiguous", Reason.OUTCOME_UNKNOWN, step.name, said)
        elif end.record.state == "failed":
            self._fail(step, end)
        else:
            self._values[step.name] = end.value

    def _fail(self, step: Step, end: StepEnd) -> None:
        """Keep the first failure, but rather one that another attempt cannot mend, and a held key least."""
        if self._ended is None or _weight(end.failure) > _weight(self._ended.failure):
            record = end.record
            self._ended = _Ended("failed", record.reason, step.name, record.message, end.failure)

    async def output(self) -> msgspec.Raw:
        """Return the run's output: the template's expression, or else the last step's output."""
        wanted = self._agent.spec.output
        if wanted is None:
            return encoded(self._values[self._steps[-1].name], "the output")
        value = await self._doing.expressions.evaluate(wanted.value, self._variables())
        raw = encoded(value, "the output")
        if wanted.output_schema:
            problems = await self._doing.expressions.problems(wanted.output_schema, value)
            if problems:
                where, what = problems[0]
                raise StepFailed(f"output{where}: {what}", Reason.OUTPUT_INVALID)
        return raw

    def waiting(self) -> Finish:
        """Return the end of an attempt after which only people can go on."""
        asks = tuple(self.asks.values())
        said = "; ".join(f"steps.{ask.step}: {ask.message}" for ask in asks)
        finish = self.finish("waiting", reason=Reason.WAITS_FOR_APPROVAL, message=said)
        return msgspec.structs.replace(finish, asks=asks)

    def timed_out(self) -> Finish:
        """Return the end of a run that is out of time."""
        for name in sorted(self._course.critical):
            said = f"steps.{name}: the run ran out of time; whether it took effect is not known"
            return self.finish("ambiguous", reason=Reason.OUTCOME_UNKNOWN, message=said)
        said = "The run took longer than the template's queue.maxRunSeconds."
        return self.finish("failed", reason=Reason.RUN_TIMED_OUT, message=said)

    def hopeful(self, finish: Finish, failure: EveresthoodError | None) -> Finish:
        """Return the end with what the record must know to try the run again, where the agent wants that.

        For a held key the run goes back to its queue: it has not failed.
        """
        if isinstance(failure, KeyHeld) and finish.outcome == "failed":
            return msgspec.structs.replace(finish, outcome="released", retry_after_seconds=failure.seconds)
        wants = self._agent.spec.queue.retry is not None
        if finish.outcome != "failed" or not wants or failure is None or not failure.transient:
            return finish
        after = getattr(failure, "retry_after_seconds", None)
        return msgspec.structs.replace(finish, transient=True, retry_after_seconds=after)

    def finish(self, outcome: str, *, reason: str, output: msgspec.Raw = EMPTY, message: str = "") -> Finish:
        """Return what to hand in."""
        return Finish(
            run=self._assignment.run,
            fence=self._assignment.fence,
            outcome=outcome,  # type: ignore[arg-type]
            output=output,
            reason="" if outcome == "succeeded" else reason,
            message=message[:MAX_MESSAGE],
        )


def _was_held(record: StepRecord) -> bool:
    """Return whether a step did not happen because its credential was held."""
    return record.state == "failed" and record.reason == Reason.CREDENTIAL_HELD


def _weight(failure: EveresthoodError | None) -> int:
    """Return how much a failure says about the run: a held key nothing, one that may pass a little."""
    if isinstance(failure, KeyHeld):
        return 0
    return 1 if failure is not None and failure.transient else 2
