"""State machines that put both records to whatever may happen, in whatever order."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from tests.support.postgres import Databases
from tests.support.record import postgres_harness

Machine = TypeVar("Machine", bound=RuleBasedStateMachine)


@contextmanager
def on_a_database(machine: type[Machine], databases: Databases) -> Iterator[type[Machine]]:
    """Lend the machine with a `postgres` of its own and the `runner` that it lives on."""
    with asyncio.Runner() as runner:
        url = runner.run(databases.borrow())
        harness = postgres_harness(url, size=2)
        bound = type("Bound", (machine,), {"postgres": runner.run(harness.__aenter__()), "runner": runner})
        try:
            yield bound
        finally:
            runner.run(harness.__aexit__(None, None, None))
            runner.run(databases.give_back(url))


def try_whatever_comes(machine: type[RuleBasedStateMachine], examples: int) -> None:
    """Fail with the shortest course of events after which an invariant of the machine does not hold."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
