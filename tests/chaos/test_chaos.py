"""Nothing that dies, hangs, forgets or lies about the time loses a run or repeats a step that was completed."""

from collections.abc import Iterator

import pytest
from tests.chaos.cases import Case, cases
from tests.chaos.matrix import Matrix
from tests.chaos.points import PROCESSES, UNASKED, operations, points, writing_statements

pytestmark = pytest.mark.integration
_CASES = cases()


@pytest.fixture(scope="session")
def matrix(request: pytest.FixtureRequest) -> Iterator[Matrix]:
    """Take those cases that were asked for through, side by side, whatever order their tests come in."""
    wanted = {
        item.callspec.params["case"]: None
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and "case" in item.callspec.params
    }
    under_way = Matrix([case for case in wanted if isinstance(case, Case)])
    under_way.start()
    yield under_way
    under_way.end()


@pytest.mark.parametrize("case", _CASES, ids=str)
def test_every_accepted_run_ends_and_no_completed_step_is_repeated(matrix: Matrix, case: Case):
    """After the strike all runs come to their end in time, each step once, and new runs are accepted and done."""
    verdict = matrix.verdicts[str(case)].result(timeout=1200)

    assert verdict.happened, "the write was not come to: let a stimulus of tests/chaos/cases.py lead there"
    assert verdict.found.breaches == []
    assert verdict.found.left == 0, "there are runs that are not over"
    assert verdict.found.runs > 0
    assert verdict.found.seconds <= case.within + verdict.start_seconds


def test_every_statement_that_writes_is_somebodys():
    """A new statement is a point of the matrix, or of the controller, or explained: never overlooked."""
    reached = {name.split(":")[1].split(".")[0] for p in (*PROCESSES, "controller") for name in operations(p)}

    assert writing_statements() - reached == set()


def test_the_points_are_those_that_the_code_has():
    """What a person who reads the code would name is found by reading it: here some of each place."""
    found = {(point.process, point.operation) for point in points()}

    assert {
        ("web", "sql:accept"),
        ("web", "sql:accept_deduped"),
        ("web", "sql:cancel"),
        ("web", "redis:EVALSHA"),
        ("gateway", "sql:work.finished"),
        ("gateway", "sql:work.checkpoints"),
        ("gateway", "sql:heartbeat"),
        ("gateway", "redis:DEL"),
        ("scheduler", "sql:settle"),
        ("scheduler", "sql:fire"),
        ("scheduler", "redis:ACL SETUSER"),
        ("worker", "gateway:work.want"),
        ("worker", "queue:ack"),
        ("worker", "outside:send"),
    } <= found
    assert not any(
        operation in ("sql:due_schedules", "sql:overdue", "sql:lock_run") for _, operation in found
    )
    assert {victim.victim for victim in points()} == {*PROCESSES, "postgresql", "redis"}


def test_what_is_left_out_is_there_to_be_left_out():
    """An explanation for a write that the code no longer has would hide the next one of its name."""
    for process, operation in UNASKED:
        assert operation in operations(process)
