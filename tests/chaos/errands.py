"""What is asked of an installation only to come to a certain write, each with what must have come of it in the end."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from signal import SIGTERM

from tests.chaos.launcher import ELSEWHERE
from tests.chaos.stack import NAMESPACE, REVISION, SLOW_SECONDS, Stack, persist

_QUEUE = ("struck-uid", REVISION)
_POD = f"struck-{REVISION}"
_PATIENCE_SECONDS = 30.0
_LONG_SECONDS = 20.0
_CANCELLED = (
    "cancel_requested = true, reason = 'Cancelled', message = 'a person', "
    "cancel_by = now() + interval '30 seconds'"
)
_CANCELLED_BESIDE = f"""
create or replace function chaos_beside() returns trigger language plpgsql as $$ begin
  update run set {_CANCELLED} where 'run/' || id = new.requested_by and state = 1;
  -- Its lease may have ended while PostgreSQL was away: then it waits, and a cancellation ends it at once.
  update run set {_CANCELLED}, state = 5, finished_at = now() where 'run/' || id = new.requested_by and state = 0;
  return null;
end $$;
drop trigger if exists chaos_beside on run;
create trigger chaos_beside after insert on run for each row when (new.requested_by like 'run/%') execute function chaos_beside();
"""
_CHILDREN = "from run where requested_by = 'run/{}'"
_LIMITED = '{"platform": {"concurrency": 1000}}'


async def call_another(stack: Stack, *, seconds: float = 0.02) -> None:
    """Have runs whose model has a run of another instance, which has a worker of its own."""
    await _hire_helper(stack)
    runs = await asyncio.gather(*(stack.post(calls=True, seconds=seconds) for _ in range(2)))
    for run in runs:
        succeeded = f"select state, reason, message from run where id = '{run}' and state <> 3"
        children = f"from run where requested_by = 'run/{run}'"
        told = f"select output from step where run_id = '{run}' and name = 'calls/turn1/call1'"
        stack.owed += [
            ("a caller did not succeed", succeeded),
            ("a caller has not one child", f"select count(*) {children} having count(*) <> 1"),
            ("a child did not succeed", f"select id, state, message {children} and state <> 3"),
            ("a caller did not hear of its child", f"{told} and output::text like '%error%'"),
        ]


async def call_another_unprepared(stack: Stack) -> None:
    """Have Redis forget what it was taught between the bell for the caller and the one for its child."""
    calling = asyncio.create_task(call_another(stack, seconds=SLOW_SECONDS))
    for _ in range(25):  # others ring too, and teach it again
        await stack.forget_scripts(partial(asyncio.sleep, 0.1))
    await calling


async def cancel_a_caller(stack: Stack) -> None:
    """Cancel a run while the run that it waits for is under way: both end, and no child outlives its caller."""
    run = await _calling(stack)
    await stack.cancel(run)
    stack.owed.append(_once("run.cancel", f"run/{run}"))


async def cancel_a_caller_halfway(stack: Stack) -> None:
    """Leave a cancellation as somebody leaves it who dies before the child: that is the gateway's when the caller ends.

    The end of the caller is written by then: where PostgreSQL dies between the two, the child comes to its own end.
    """
    run = await _calling(stack, goes_on=bool(stack.victims))
    await stack.ask(
        f"update run set {_CANCELLED} where id = '{run}' and state = 1; "
        "select pg_notify('everesthood_cancels', 'struck-uid');"
    )


async def cancel_a_caller_who_calls(stack: Stack) -> None:
    """Have a caller cancelled while its child is accepted, unseen by whoever cancels: the gateway looks once more."""
    await _hire_helper(stack)
    stack.ledger.wish_seconds = _LONG_SECONDS
    await stack.ask(_CANCELLED_BESIDE)
    try:
        run = await stack.post(calls=True)
        _owe_children(stack, run)
        await _until(stack, f"run {run} has no child", f"select {_CHILDREN.format(run)}")
        await _until(
            stack, f"run {run} is not cancelled", f"select from run where id = '{run}' and state = 5"
        )
    finally:
        await stack.ask("drop trigger if exists chaos_beside on run;")


async def _calling(stack: Stack, *, goes_on: bool = False) -> str:
    """Return a run whose child has begun, and takes its time."""
    await _hire_helper(stack)
    stack.ledger.wish_seconds = _LONG_SECONDS
    run = await stack.post(calls=True)
    _owe_children(stack, run, goes_on=goes_on)
    await _until(stack, f"run {run} has no child under way", f"select {_CHILDREN.format(run)} and state = 1")
    return run


def _owe_children(stack: Stack, run: str, *, goes_on: bool = False) -> None:
    """Expect a caller to be cancelled and its one child too, unless that may come to its own end."""
    ended = "(3, 5)" if goes_on else "(5)"
    noted = "select count(*) from audit where action = 'run.cancel' and target = 'run/' || run.id"
    stack.owed += [
        ("a caller is not cancelled", f"select state, reason from run where id = '{run}' and state <> 5"),
        (
            "a child is not cancelled",
            f"select id, state, reason {_CHILDREN.format(run)} and state not in {ended}",
        ),
        (
            "a caller has not one child",
            f"select count(*) {_CHILDREN.format(run)} having count(*) <> 1",
        ),
        (
            "a child's cancellation is not noted once",
            f"select id {_CHILDREN.format(run)} and state = 5 and ({noted}) <> 1",
        ),
    ]


async def _hire_helper(stack: Stack) -> None:
    if "helper" not in stack.members:
        helper = stack.members["helper"] = stack.hire("worker", "helper")
        helper.start()


async def let_a_worker_leave(stack: Stack) -> None:
    """Do as the controller does with a worker too many: ask it to leave, and delete its pod once it has."""
    worker = stack.members["worker"]
    await asyncio.gather(*(stack.post(seconds=SLOW_SECONDS) for _ in range(2)))
    await persist(lambda: stack.registry.ask_to_leave(*_QUEUE, 1, drain=True))
    await stack.ask("update scale_in set asked_at = now() - interval '1 minute';")
    await _until(
        stack, "a worker does not leave", f"select from leaver where pod = '{_POD}' and left_at is not null"
    )
    if held := await worker.figure("everesthood_worker_running_runs"):
        stack.breaches.append(f"{held:.0f} runs are held by a worker that has left")
    worker.stays_down = True
    worker.send(SIGTERM)
    try:
        await worker.until_gone()
        await persist(lambda: stack.registry.forget_leavers(*_QUEUE, [_POD]))
    finally:
        worker.stays_down = False


async def hold_the_queue(stack: Stack) -> None:
    """Pause a queue, find that its runs wait, and resume it; each is noted once, however often it was said."""
    await _say(stack, "/instances/struck/queue/pause")
    await asyncio.sleep(0.3)
    run = await stack.post()
    await asyncio.sleep(0.5)
    if await stack.ask(f"select from run where id = '{run}' and state <> 0"):
        stack.breaches.append(f"run {run} was begun from a queue that is paused")
    await _say(stack, "/instances/struck/queue/resume")
    stack.owed += [
        ("the queue is still paused", "select paused_at from instance where paused_at is not null"),
        _once("queue.pause", "instance/struck"),
        _once("queue.resume", "instance/struck"),
    ]


async def stop_everything(stack: Stack) -> None:
    """Stop an organisation, which cancels what runs, and start it again."""
    run = await _running(stack)
    await _say(stack, "/stop", {"runs": "cancel", "message": "struck"})
    await _stopped(stack, run)
    stack.owed += [_once("organization.stop", NAMESPACE), _once("organization.start", NAMESPACE)]


async def stop_halfway(stack: Stack) -> None:
    """Leave a stop as somebody leaves it who dies before anything is cancelled: that is the scheduler's then."""
    run = await _running(stack)
    await stack.ask(
        f"insert into stopped_organization values ('{NAMESPACE}', now(), 'a person', '', true); "
        f"update instance set stopped = true where namespace = '{NAMESPACE}';"
    )
    await _stopped(stack, run)
    stack.owed.append(_once("organization.start", NAMESPACE))


async def resolve_a_doubt(stack: Stack) -> None:
    """Have a run in doubt, and say that its step took effect: it goes on from there, said once or twice."""
    stack.ledger.silences = 1
    run = await stack.post(once=True)
    await _until(stack, f"run {run} is not in doubt", f"select from run where id = '{run}' and state = 7")
    stack.ledger.silences = 0
    stack.resolved.add(run)
    answer = await stack.insist("POST", f"/runs/{run}/resolve", json={"outcome": "done", "output": 1})
    if answer.status_code not in (200, 409):  # somebody who has said it already hears that there is no doubt
        stack.breaches.append(f"run {run} is not resolved: {answer.text}")
    stack.owed += [
        (
            "a resolved run did not succeed",
            f"select state, reason, message from run where id = '{run}' and state <> 3",
        ),
        _once("run.resolve.done", f"run/{run}/steps/once"),
    ]


async def begin_anew_with_limits(stack: Stack) -> None:
    """Start a gateway that is told of a limit, which it writes before it serves."""
    gateway = stack.members["gateway"]
    before = gateway.environment
    stack.is_limited = True
    gateway.environment = {**before, "EVERESTHOOD_LIMITS": _LIMITED}
    try:
        await gateway.kill()
        with suppress(RuntimeError):
            await gateway.until_ready()
        await asyncio.sleep(1.0)
        await gateway.until_ready()
    finally:
        gateway.environment = before
    stack.owed.append(
        ("the limit is not kept", "select where not exists (select from run_limit where scope = 'platform')")
    )


async def grow_old(stack: Stack) -> None:
    """Have what is old enough to be forgotten, beside what is not: by its age, its end, or what became of it."""
    await stack.ask(_AGED)
    gone = "select id::text from run where id in (select id from chaos_aged where goes)"
    kept = "select id from chaos_aged where not goes and id not in (select id from run)"
    parts = " union all ".join(
        f"select '{table}' as of from {table} where run_id in (select id from chaos_aged where goes)"
        for table in ("step", "run_log")
    )
    stack.owed += [
        ("an old run is kept", gone),
        ("a part of an old run is kept", parts),
        ("a run is lost that is not old", kept),
        ("a step is lost that is not old", "select id from chaos_aged where not goes and id not in (select run_id from step)"),
        ("an old line is kept", "select message from run_log where message = 'old'"),
        ("a line is lost that is not old", "select 1 from run_log where message = 'young' having count(*) <> 2"),
        ("an old key is kept", "select key from idempotency where key = 'old'"),
        ("a key is lost that is not old", "select 1 from idempotency where key = 'young' having count(*) <> 1"),
        ("an old line of the audit is kept", "select action from audit where action = 'old'"),
        ("a line of the audit is lost that is not old", "select 1 from audit where action = 'young' having count(*) <> 1"),
    ]  # fmt: skip


_AGED = """
drop table if exists chaos_aged;
create table chaos_aged as
select (lpad(to_hex((extract(epoch from now() - interval '40 days') * 1000)::bigint), 12, '0')
        || '70008000' || lpad(n::text, 12, '0'))::uuid as id,
       n <= 6 as goes, case when n = 7 then 7 else 3 end as state,
       now() - case when n = 8 then interval '1 day' else interval '39 days' end as ended
from generate_series(1, 8) n;
insert into run (id, namespace, instance, instance_uid, state, max_attempts, max_run_seconds, input, requested_by,
                 request_id, created_at, started_at, finished_at, attempt, fence)
select id, 'default', 'aged', 'struck-uid', state, 1, 60, '{}', 'a person', '', ended, ended, ended, 1, 1 from chaos_aged;
insert into step (run_id, name, state, output, attempt) select id, 'aged', 1, '1', 1 from chaos_aged;
insert into run_log (run_id, at, level, message) select id, ended, 'info', 'old' from chaos_aged where goes or state = 7;
insert into run_log (run_id, at, level, message) select id, now(), 'info', 'young' from chaos_aged where not goes;
insert into idempotency (instance_uid, key, digest, run_id, created_at)
select 'struck-uid', 'old', '', id, now() - interval '8 days' from chaos_aged limit 1;
insert into idempotency (instance_uid, key, digest, run_id, created_at)
select 'struck-uid', 'young', '', id, now() - interval '6 days' from chaos_aged limit 1;
delete from audit;
insert into audit (at, namespace, actor, action, target) values
(now() - interval '366 days', 'default', 'a person', 'old', ''), (now() - interval '364 days', 'default', 'a person', 'young', '');
"""


async def _running(stack: Stack) -> str:
    """Return a run that is under way, and will be for a while."""
    run = await stack.post(seconds=_LONG_SECONDS)
    await _until(stack, f"run {run} does not begin", f"select from run where id = '{run}' and state = 1")
    return run


async def _stopped(stack: Stack, run: str) -> None:
    """See a stop through, and lift it."""
    # While PostgreSQL was away its lease may have ended: then it does not run, it waits, and a stop leaves it.
    states = "(0, 5)" if stack.victims else "(5)"
    over = f"select state from run where id = '{run}' and state in {states}"
    await _until(stack, f"run {run} is not cancelled", over)
    if stack.victims and await stack.ask(f"{over} and state = 0"):
        await stack.cancel(run)
    await _say(stack, "/start", {})
    stack.owed += [
        _once("run.cancel", f"run/{run}"),
        ("the organisation is still stopped", "select namespace from stopped_organization"),
        ("an instance is still stopped", "select name from instance where stopped and deleted_at is null"),
        (
            "a run that was stopped is something else",
            f"select state, reason from run where id = '{run}' and state <> 5",
        ),
    ]


async def be_refused(stack: Stack) -> None:
    """Ask another organisation's instance for runs, until that is noted for whoever looks for such things."""
    theirs = f"theirs-{uuid.uuid4().hex[:8]}"  # the same refusal is noted once a minute
    path = f"http://127.0.0.1:{stack.site.port}/api/agent-marketplace/namespaces/{ELSEWHERE}/instances/{theirs}/runs"
    noted = f"select from audit where action = 'access.deny' and target like '%{theirs}%'"
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not await stack.ask(noted) and time.monotonic() < deadline:
        answer = await stack.insist("POST", path, json={"input": {}})
        if answer.status_code != 403:
            stack.breaches.append(f"another organisation's instance is not refused: {answer.text}")
        await asyncio.sleep(0.2)
    stack.owed.append(("a refusal is not noted", f"select where not exists ({noted})"))


async def _say(stack: Stack, path: str, body: object = None) -> None:
    """Say it until it is heard."""
    answer = await stack.insist("POST", path, **({} if body is None else {"json": body}))
    if answer.status_code not in (200, 201):
        stack.breaches.append(f"{path} is not done: {answer.text}")


def _once(action: str, target: str) -> tuple[str, str]:
    where = f"where action = '{action}' and target = '{target}'"
    return f"{action} is not noted once", f"select count(*) from audit {where} having count(*) <> 1"


async def _until(stack: Stack, otherwise: str, question: str) -> None:
    """Wait until there is an answer; without one there is something wrong."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not await stack.ask(question):
        if time.monotonic() > deadline:
            stack.breaches.append(otherwise)
            return
        await asyncio.sleep(0.05)


Errand = Callable[[Stack], Awaitable[None]]

ERRANDS: dict[tuple[str, str], Errand] = {
    ("gateway", "sql:ask"): Stack.ask_a_person,
    ("web", "sql:decide"): Stack.ask_a_person,
    ("scheduler", "sql:decide"): Stack.answer_nobody,
    ("gateway", "sql:start"): Stack.limit,
    ("gateway", "sql:spend"): Stack.limit,
    ("gateway", "sql:keep_back"): Stack.limit,
    ("gateway", "sql:hold_credential"): Stack.refuse,
    ("worker", "gateway:hold"): Stack.refuse,
    ("gateway", "redis:EVALSHA"): call_another,
    ("gateway", "redis:SCRIPT LOAD"): call_another_unprepared,
    ("gateway", "sql:accept"): call_another,
    ("gateway", "sql:cancel"): cancel_a_caller_who_calls,
    ("gateway", "sql:cancel_runs"): cancel_a_caller_halfway,
    ("web", "sql:cancel_runs"): cancel_a_caller,
    ("worker", "gateway:child"): call_another,
    ("gateway", "sql:offer_to_leave"): let_a_worker_leave,
    ("worker", "gateway:work.holds"): let_a_worker_leave,
    ("worker", "gateway:work.leaves"): let_a_worker_leave,
    ("web", "sql:pause"): hold_the_queue,
    ("web", "sql:resume"): hold_the_queue,
    ("web", "sql:stop_organization"): stop_everything,
    ("web", "sql:mark_stopped"): stop_everything,
    ("web", "sql:cancel_stopped"): stop_everything,
    ("web", "sql:start_organization"): stop_everything,
    ("scheduler", "sql:cancel_stopped"): stop_halfway,
    ("web", "sql:resolve"): resolve_a_doubt,
    ("web", "sql:audit"): be_refused,
    ("scheduler", "sql:forget_runs"): grow_old,
    ("scheduler", "sql:forget_lines"): grow_old,
    ("scheduler", "sql:forget_keys"): grow_old,
    ("scheduler", "sql:forget_audit"): grow_old,
    ("gateway", "sql:publish_shared"): begin_anew_with_limits,
    ("gateway", "sql:count_running"): begin_anew_with_limits,
}
"""What leads to a write that nothing else leads to."""
