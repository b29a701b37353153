"""What a person at a terminal gets, against a real server."""

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import dataclass

import pytest
from tests.support.kubectl import FakeKubectl
from tests.support.postgres import free_port
from tests.support.web import Stores, running_api

from everesthood.adapters.memory import MemoryControl, MemoryRegistry, MemoryRuns, MemoryWork, Record
from everesthood.apis import wire

pytestmark = pytest.mark.integration


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


async def cli(*words, stdin=b"", program="from everesthood.entrypoints.cli.main import main; main()", **env):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("EVERESTHOOD", "KUBE"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**clean, "COLUMNS": "200", "NO_COLOR": "1", **env},
    )
    async with asyncio.timeout(40):
        out, err = await process.communicate(stdin)
    return Said(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def api():
    record = Record()
    stores = Stores(
        runs=MemoryRuns(record),
        work=MemoryWork(record),
        registry=MemoryRegistry(record),
        control=MemoryControl(record),
    )
    async with running_api(stores, heartbeat_seconds=0.2) as running:
        yield running


@pytest.fixture
def call(api):
    async def at_the_api(*words, **more):
        env = {"EVERESTHOOD_SERVER": api.address, "EVERESTHOOD_TOKEN": "ada-token"}
        return await cli(*words, **{**env, **more})

    return at_the_api


async def until_claimed(api):
    async with asyncio.timeout(20):
        while not (reply := await api.worker(want=1)).assignments:
            await asyncio.sleep(0.02)
    return reply.assignments[0]


async def test_a_run_is_started_and_the_next_commands_are_shown(api, call):
    """Three lines: what happened, how to follow it, how to see it."""
    said = await call("run", "summarizer", "-n", "acme", "--input", '{"text": "hello"}')

    assert said.code == 0, said.err
    run = said.out.split()[1]
    assert f"everesthood logs {run} -n acme -f" in said.out
    assert (await api.claim()).run == run


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
async def test_a_followed_run_shows_its_log_and_ends_with_its_result(api, call, outcome):
    """Lines as they come, then the result; the exit code tells success from failure."""
    following = asyncio.create_task(
        call("run", "summarizer", "-n", "acme", "--input", '{"text": "hello"}', "--follow")
    )
    held = await until_claimed(api)
    await api.log(held, "first line", "second \x1b[31mline")
    await asyncio.sleep(0.6)  # nothing happens for a while, and that is said
    await api.finish(held, output={"summary": "HELLO"}, outcome=outcome)
    said = await following

    assert said.code == (0 if outcome == "succeeded" else 1)
    assert said.out.index("first line") < said.out.index("second \N{REPLACEMENT CHARACTER}[31mline")
    assert said.out.index("step shout succeeded") < said.out.index(
        outcome if outcome == "succeeded" else "dead"
    )
    assert "still running" in said.err
    assert ('"summary": "HELLO"' in said.out) == (outcome == "succeeded")


async def test_json_output_is_json_and_nothing_else(api, call):
    """With -o json standard output can be piped; what people read goes to standard error."""
    following = asyncio.create_task(
        call("run", "summarizer", "-n", "acme", "--input", '{"text": "x"}', "-f", "-o", "json")
    )
    held = await until_claimed(api)
    await api.log(held, "a line")
    await api.finish(held)
    said = await following

    assert (said.json["state"], said.json["output"]) == ("succeeded", "HELLO")
    assert "a line" in said.err


async def test_the_input_comes_from_a_file_or_from_standard_input(api, call, tmp_path):
    """@FILE and - give the same run as the text itself."""
    file = tmp_path / "input.json"
    file.write_text('\ufeff{"text": "from a file"}')
    first = await call("run", "summarizer", "-n", "acme", "--input", f"@{file}", "-o", "json")
    second = await call(
        "run", "summarizer", "-n", "acme", "--input", "-", "-o", "json", stdin=b'{"text": "piped"}'
    )

    assert (first.json["input"], second.json["input"]) == ({"text": "from a file"}, {"text": "piped"})


async def test_schedules_are_listed_and_run_now(api, call):
    """`schedules` shows the times; `run --schedule` takes the schedule's input."""
    listed = await call("schedules", "summarizer", "-n", "acme")
    ran = await call("run", "summarizer", "-n", "acme", "--schedule", "daily", "-o", "json")
    unknown = await call("run", "summarizer", "-n", "acme", "--schedule", "weekly")

    assert listed.out.splitlines()[1].startswith("daily   0 6 * * * (Europe/Berlin)")
    assert (ran.json["schedule"], ran.json["input"]) == ("daily", {"text": "of the schedule"})
    both = await call("run", "summarizer", "-n", "acme", "--schedule", "daily", "--input", '{"text": "x"}')
    assert (both.code, "brings its own input" in both.err) == (2, True)
    assert (unknown.code, "no schedule 'weekly'" in unknown.err) == (1, True)
    as_json = await call("schedules", "summarizer", "-n", "acme", "-o", "json")
    assert [item["name"] for item in as_json.json["items"]] == ["daily"]


async def test_runs_are_listed_shown_cancelled_and_read(api, call):
    """The commands of a working day."""
    empty = await call("runs", "list", "-n", "acme")
    assert "everesthood run NAME -n acme" in empty.out
    run = (await api.start()).json()["id"]
    held = await api.claim()
    await api.log(held, "a line")
    await api.finish(held)
    waiting = (await api.start()).json()["id"]

    assert run in (await call("runs", "list", "-n", "acme", "--state", "succeeded")).out
    shown = await call("runs", "get", run, "-n", "acme")
    assert '"HELLO"' in shown.out
    assert (await call("runs", "cancel", waiting, "-n", "acme")).out == f"Run {waiting} is cancelled.\n"
    assert "a line" in (await call("logs", run, "-n", "acme")).out
    assert (await call("runs", "log", run, "-n", "acme", "-o", "json")).json["message"] == "a line"
    again = await call("runs", "cancel", run, "-n", "acme")
    assert again.code == 1
    assert "everesthood explain RunFinished" in again.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "summarizer", "-n", "acme", "--input", "{"], 2, "The input is not JSON"),
        (["run", "summarizer", "-n", "acme", "--input", "@/none"], 2, "The input cannot be read"),
        (["run", "summarizer", "-n", "acme", "--input", '{"text": 1}'], 1, "/input/text: "),
        (["run", "none", "-n", "acme", "--input", '{"text": "x"}'], 1, "no AgentInstance 'none'"),
        (["run", "summarizer", "-n", "globex", "--input", "{}"], 1, "ada may not create agentinstances/run"),
        (["runs", "get", "../../x", "-n", "acme"], 1, "404"),
        (["runs", "list", "-n", "acme", "--limit", "0"], 2, "--limit"),
        (["runs", "list", "-n", "acme", "--state", "asleep"], 1, "queued"),
        (["run"], 2, "Missing argument"),
        (["explain", "Nonsense"], 1, "There is no reason 'Nonsense'."),
        (["completion", "tcsh"], 2, "There is no completion for 'tcsh'."),
    ],
)
async def test_a_refusal_is_a_sentence_and_an_exit_code(api, call, words, code, said):
    """One clear sentence, no traceback, and the token in none of it."""
    answer = await call(*words)

    assert answer.code == code, answer
    assert said in answer.err or said == "404"
    assert "Traceback" not in answer.err
    assert "ada-token" not in answer.err + answer.out


async def test_an_unreachable_api_is_exit_code_3():
    """A script can tell an outage from a refusal."""
    nobody = f"http://127.0.0.1:{free_port()}"
    said = await cli("runs", "list", "-n", "acme", EVERESTHOOD_SERVER=nobody, EVERESTHOOD_TOKEN="t")

    assert (said.code, "cannot be reached" in said.err) == (3, True)


async def test_status_tells_who_is_at_fault(api, call):
    """Ready, refused and down are told apart, by text and by exit code."""
    ready = await call("status", "-n", "acme")
    refused = await call("status", "-n", "globex")
    api.kubernetes.down = True
    down = await call("status", "-n", "acme", "-o", "json", EVERESTHOOD_TOKEN="another")

    assert (ready.code, refused.code, down.code) == (0, 1, 3)
    assert "ready" in ready.out
    assert "may not list" in refused.out
    assert down.json["parts"]["runs"]["state"] == "down"


@pytest.fixture
def kubectl(tmp_path):
    return FakeKubectl(tmp_path)


async def with_kubectl(kubectl, *words, **env):
    return await cli(*words, KUBECTL=str(kubectl.path), **env)


def port_of(api):
    return int(api.address.rpartition(":")[2])


async def test_without_an_address_kubectl_opens_the_way_and_closes_it(api, kubectl):
    """Namespace, token and port come from kubectl; nothing of it is left running."""
    kubectl.tell(user={"token": "ada-token"}, port=port_of(api))

    said = await with_kubectl(kubectl, "run", "summarizer", "--input", '{"text": "x"}')

    assert said.code == 0, said.err
    forward = ["port-forward", "-n", "everesthood-system", "svc/everesthood-web", ":80"]
    assert forward in kubectl.calls()
    with pytest.raises(ProcessLookupError):
        os.kill(kubectl.forwarder(), 0)


async def test_a_client_certificate_borrows_a_token_for_this_api(api, kubectl):
    """No token in the kubeconfig: one of the namespace's ServiceAccount, for our audience alone."""
    kubectl.tell(user={"client-certificate-data": "x"}, port=port_of(api), created="ada-token")

    assert (await with_kubectl(kubectl, "runs", "list", "-n", "acme")).code == 0
    token = ["create", "token", "everesthood-cli", "-n", "acme", "--audience", "everesthood-web"]
    assert token in kubectl.calls()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            'error: failed to create token: serviceaccounts "everesthood-cli" not found',
            1,
            "is not in namespace acme",
        ),
        (
            'error: failed to create token: serviceaccounts "everesthood-cli" is forbidden',
            1,
            "you may not create one",
        ),
        ("Unable to connect to the server: dial tcp", 3, "kubectl cannot create a token: Unable to connect"),
    ],
)
async def test_a_token_that_cannot_be_had_is_one_sentence(api, kubectl, error, code, said):
    """Why there is no token, and where to give one."""
    kubectl.tell(user={"client-certificate-data": "x"}, port=port_of(api), error=error)

    answer = await with_kubectl(kubectl, "runs", "list", "-n", "acme")
    assert (answer.code, said in answer.err) == (code, True), answer.err


async def test_a_credential_plugin_gives_the_token(api, kubectl, tmp_path):
    """An exec plugin is run as kubectl would run it, and its output is never shown."""
    plugin = tmp_path / "plugin"
    plugin.write_text(
        f"#!{sys.executable}\nimport json, os\n"
        "info = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        "assert info['kind'] == 'ExecCredential' and os.environ['FLAVOUR'] == 'sweet'\n"
        "print(json.dumps({**info, 'status': {'token': 'ada-token'}}))\n"
    )
    plugin.chmod(0o755)
    exec_ = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": str(plugin),
        "env": [{"name": "FLAVOUR", "value": "sweet"}],
    }
    kubectl.tell(user={"exec": exec_}, port=port_of(api))
    assert (await with_kubectl(kubectl, "runs", "list")).code == 0

    kubectl.tell(user={"exec": {**exec_, "env": [{"name": "FLAVOUR", "value": "sour"}]}}, port=port_of(api))
    broken = await with_kubectl(kubectl, "runs", "list")
    assert (broken.code, "credential plugin" in broken.err) == (3, True)


async def test_without_kubectl_there_is_one_sentence():
    """Which program is missing and what to give instead."""
    said = await cli("runs", "list", KUBECTL="/none/kubectl")

    assert (said.code, "There is no program '/none/kubectl'." in said.err) == (3, True)
    assert "--server" in said.err


async def test_a_missing_service_or_context_is_one_sentence(kubectl):
    """kubectl's own words, and where to give the address; a wrong context is a wrong command line."""
    kubectl.tell(user={"token": "t"})
    no_service = await with_kubectl(kubectl, "runs", "list")
    no_context = await with_kubectl(kubectl, "--context", "unknown", "runs", "list")

    assert (no_service.code, 'services "everesthood-web" not found' in no_service.err) == (3, True)
    assert (no_context.code, "no context 'unknown'" in no_context.err) == (2, True)


async def test_a_broken_stream_is_taken_up_again(api, call):
    """A restarted server costs a follower nothing: each line once, then the result."""
    run = (await api.start()).json()["id"]
    held = await api.claim()
    await api.log(held, "before")
    following = asyncio.create_task(call("logs", run, "-n", "acme", "-f"))
    async with asyncio.timeout(20):
        while not api.streams._open.total():
            await asyncio.sleep(0.02)
    api.streams.closing.set()
    async with asyncio.timeout(20):
        while api.streams._open.total():
            await asyncio.sleep(0.02)
    api.streams.closing.clear()
    await api.log(held, "after")
    await api.finish(held)
    said = await following

    assert said.code == 0, said.err
    assert (said.out.count("before"), said.out.count("after")) == (1, 2)  # the last line says "after 0.0s"


async def test_it_is_a_plugin_of_kubectl():
    """Called as kubectl-everesthood it names itself so."""
    program = (
        "import sys; sys.argv[0] = '/usr/bin/kubectl-everesthood';"
        "from everesthood.entrypoints.cli.main import main; main()"
    )
    said = await cli("run", "--help", program=program)

    assert "Usage: kubectl everesthood run" in said.out


PROCESSES = {
    "worker": {"fastapi", "kopf", "kubernetes", "typer", "asyncpg"},
    "gateway": {"kopf", "typer"},
    "scheduler": {"fastapi", "kopf", "kubernetes", "typer"},
    "web": {"kopf", "typer", "celery"},
}


@pytest.mark.parametrize("process", PROCESSES)
async def test_a_process_imports_only_what_it_uses(process):
    """A worker starts without FastAPI, Kopf and Kubernetes, and nobody starts with another's libraries."""
    program = (
        "import sys; from everesthood.entrypoints.cli import main;"
        f"__import__(main.PROCESSES[{process!r}]); print(' '.join(sys.modules))"
    )
    said = await cli(program=program)

    assert said.code == 0, said.err
    assert not PROCESSES[process] & set(said.out.split())


async def test_every_process_command_starts_something():
    """Each command of a process leads to a module with a `main`."""
    program = (
        "from importlib import import_module; from everesthood.entrypoints.cli import main;"
        "print(*(n for n, module in main.PROCESSES.items() if not callable(import_module(module).main)))"
    )
    said = await cli(program=program)

    assert (said.code, said.out.strip()) == (0, ""), said.err


async def test_completion_is_a_script():
    """Each shell gets its own."""
    for shell in ("bash", "zsh", "fish", "powershell"):
        assert "EVERESTHOOD_COMPLETE" in (await cli("completion", shell)).out
    with contextlib.suppress(FileNotFoundError):
        said = await cli("completion", "bash")
        checking = await asyncio.create_subprocess_exec("bash", "-n", stdin=asyncio.subprocess.PIPE)
        await checking.communicate(said.out.encode())
        assert checking.returncode == 0


async def test_dead_runs_are_replayed_from_the_terminal(api, call):
    """Named or filtered; a dry run counts; nothing happens without a clear wish."""
    first = await call("run", "summarizer", "-n", "acme", "--input", '{"text": "a"}', "--priority", "2",
                       "--ttl", "600", "--label", "team=sales")  # fmt: skip
    assert first.code == 0, first.err
    held = await until_claimed(api)
    await api.finish(held, outcome="failed")

    shown = await call("runs", "get", held.run, "-n", "acme")
    counted = await call("replay", "-n", "acme", "--reason", "StepFailed", "--dry-run")
    every = await call("replay", "-n", "acme", "--all", "--instance", "summarizer", "-o", "json")
    one = await call("replay", held.run, "-n", "acme", "--input", '{"text": "b"}', "-o", "json")
    nothing = await call("replay", "-n", "acme")

    assert "Priority:  2" in shown.out
    assert "team=sales" in shown.out
    assert counted.out == "1 runs would be replayed.\n"
    assert every.json == {"matched": 1, "replayed": 1, "refused": []}
    assert (one.json["replayOf"], one.json["input"]) == (held.run, {"text": "b"})
    assert nothing.code == 2


async def test_runs_are_deduplicated_from_the_terminal(api, call):
    """The key may hold colons; the mode and its seconds come last."""
    words = ("run", "summarizer", "-n", "acme", "--input", '{"text": "a"}', "-o", "json", "--dedupe")

    runs = [
        (await call(*words, key)).json["id"]
        for key in ("a:b:c", "a:b:c", "a:b:debounce:60", "a:b:debounce:60")
    ]
    wrong = await call(*words, "a:throttle:soon")

    assert (runs[0], runs[2]) == (runs[1], runs[3])
    assert runs[0] != runs[2]
    assert wrong.code == 2


async def test_runs_are_searched_from_the_terminal(api, call):
    """Filters are passed on; nothing found is said."""
    made = await call(
        "run", "summarizer", "-n", "acme", "--input", '{"text": "Needle"}', "--label", "a=b", "-o", "json"
    )
    query = ("runs", "list", "-n", "acme", "-o", "json")

    hit = await call(
        *query, "--text", "needle", "--label", "a=b", "--template", "summarizer", "--since", "2026-01-01"
    )
    miss = await call("runs", "list", "-n", "acme", "--until", "2026-01-01")

    assert [run["id"] for run in hit.json["items"]] == [made.json["id"]]
    assert miss.out.startswith("No runs in acme.")


async def waiting(api, *steps):
    """Return the id of a run that asks a person in these steps."""
    await api.start()
    held = await api.claim()
    asks = tuple(wire.Ask(step=name, message=f"May\n{name}\x1b[2J?", deadline_seconds=600) for name in steps)
    end = wire.Finish(run=held.run, fence=held.fence, outcome="waiting", asks=asks, message="May it?")
    await api.worker(finished=(end,))
    return held.run


async def test_what_waits_for_a_person_is_listed_and_answered(api, call):
    """Without a run, the questions; with one, the answer; where several ask, the step must be named."""
    nothing = await call("approve", "-n", "acme")
    run, many = await waiting(api, "ask"), await waiting(api, "a", "b")

    listed = await call("approve", "-n", "acme")
    shown = await call("runs", "get", run, "-n", "acme")
    approved = await call("approve", run, "-n", "acme", "--comment", "well")
    unnamed = await call("approve", many, "-n", "acme", "--reject")
    rejected = await call("approve", many, "-n", "acme", "--step", "b", "--reject", "--comment", "too dear")
    over = await call("approve", run, "-n", "acme")
    pointless = await call("approve", "-n", "acme", "--reject")

    assert "Nothing waits for a person in acme." in nothing.out
    assert sorted(line.split()[0] for line in listed.out.splitlines()[1:]) == sorted([run, many, many])
    assert "May ask\N{REPLACEMENT CHARACTER}[2J?" in listed.out
    assert "steps.ask asks, until 20" in shown.out
    assert f"steps.ask of run {run} is approved; the run is queued" in approved.out
    assert (unnamed.code, "--step: a, b" in unnamed.err) == (2, True)
    assert "rejected; the run is dead (ApprovalRejected: steps.b: rejected by ada: too dear)" in rejected.out
    assert (over.code, "asks nothing" in over.err) == (1, True)
    assert pointless.code == 2


async def test_an_ambiguous_run_is_resolved_from_the_terminal(api, call):
    """Exactly one of three answers; the output goes as it is."""
    await api.start()
    held = await api.claim()
    begun = wire.StepRecord(name="pay", state="started", started_at=1.0)
    await api.worker(
        finished=(wire.Finish(run=held.run, fence=held.fence, outcome="ambiguous", steps=(begun,)),)
    )

    undecided = await call("resolve", held.run, "-n", "acme")
    resolved = await call("resolve", held.run, "-n", "acme", "--done", '{"id": 7}', "--comment", "seen")
    again = await call("resolve", held.run, "-n", "acme", "--give-up")

    assert undecided.code == 2
    assert f"Run {held.run} is queued" in resolved.out
    assert (again.code, "RunNotAmbiguous" in again.err) == (1, True)
    assert [bytes(one.output) for one in (await api.claim()).steps] == [b'{"id": 7}']


async def test_a_queue_is_drained_and_resumed_from_the_terminal(api, call):
    """Draining waits for what runs and shows how far it is; what waits is handed out after a resume."""
    await api.start()
    held = await api.claim()
    await api.start()

    draining = asyncio.create_task(call("queue", "drain", "summarizer", "-n", "acme"))
    while not (await api.stores.control.queues("acme", "summarizer"))[0].pause:
        await asyncio.sleep(0.02)
    await asyncio.sleep(1.0)
    assert not draining.done()
    late = await call("queue", "drain", "summarizer", "-n", "acme", "--timeout", "1")
    await api.finish(held)
    drained = await draining
    listed = await call("queue", "show", "-n", "acme")
    status = await call("status", "-n", "acme", "-o", "json")
    resumed = await call("queue", "resume", "summarizer", "-n", "acme")

    assert (late.code, "1 of acme/summarizer still run" in late.err) == (1, True)
    assert "1 still running" in drained.err
    assert "Hands out: no: paused by ada since" in drained.out
    assert "summarizer   no: paused by ada" in listed.out
    assert status.json["parts"]["queues"] == {"state": "paused", "detail": "1 of 2: summarizer"}
    assert status.json["ready"] is True
    assert "Hands out: yes" in resumed.out
    assert (await api.claim()).run != held.run


async def test_an_organisation_is_stopped_and_started_from_the_terminal(api, call):
    """While it is stopped, a request is refused with the command that says why."""
    stopped = await call("org", "stop", "-n", "acme", "-m", "a leak")
    refused = await call("run", "summarizer", "-n", "acme", "--input", '{"text": "x"}')
    status = await call("status", "-n", "acme")
    started = await call("org", "start", "-n", "acme")

    assert "acme is stopped by ada since" in stopped.out
    assert "everesthood org start -n acme" in stopped.out
    assert (refused.code, "OrganizationStopped" in refused.err) == (1, True)
    assert "(a leak)" in status.out
    assert "acme works again." in started.out
    assert (await api.start()).status_code == 201


async def test_replays_take_the_filters_of_lists(api, call):
    """What a list shows, a replay with the same filters starts, and what was replayed can be left out."""
    for text in ("one", "two"):
        await api.start(text)
        await api.finish(await api.claim(), outcome="failed")
    options = ("-n", "acme", "--text", "two", "--template", "summarizer", "--since", "2026-01-01T00:00Z")

    first = await call("replay", "--all", *options)
    listed = await call("runs", "list", *options, "--state", "dead", "--not-replayed", "-o", "json")
    again = await call("replay", "--all", *options, "--not-replayed")
    every = await call("replay", "--dry-run", "-n", "acme", "--not-replayed")

    assert "1 of 1 runs are replayed." in first.out
    assert listed.json["items"] == []
    assert "0 of 0 runs are replayed." in again.out
    assert "1 runs would be replayed." in every.out


SUMMARIZER = {
    "spec": {"templateRef": {"name": "summarizing"}},
    "status": {
        "revision": {"desired": "rev-2", "current": "rev-1"},
        "workers": {"desired": 2, "available": 1, "reason": "ScaledToDemand"},
        "conditions": [
            {"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""},
            {"type": "Ready", "status": "False", "reason": "ImagePullFailed", "message": "no such image"},
        ],
    },
}


async def test_status_of_one_instance_shows_all_that_is_known_of_it(api, kubectl):
    """What the controller says of the object, what is in its queue, and its last runs, in one answer."""
    kubectl.tell(user={"token": "ada-token"}, port=port_of(api), objects={"summarizer": SUMMARIZER})
    run = (await api.start()).json()["id"]

    text = await with_kubectl(kubectl, "status", "summarizer")
    found = await with_kubectl(kubectl, "status", "summarizer", "-n", "acme", "-o", "json")

    assert (text.code, text.err) == (0, "")
    words = " ".join(text.out.split())
    for said in (
        "Instance: acme/summarizer",
        "Template: summarizing",
        "Ready: no: ImagePullFailed: no such image",
        "Revision: rev-1, goes to rev-2",
        "Workers: 1 of 2 available (ScaledToDemand)",
        "Hands out: yes",
        "Due: 1",
        "Ready False ImagePullFailed no such image",
        f"{run} summarizer queued",
    ):
        assert said in words
    assert found.json["object"] == SUMMARIZER
    assert (found.json["queue"]["due"], [one["id"] for one in found.json["runs"]]) == (1, [run])


async def test_status_of_an_instance_that_is_not_there_says_which_there_are(api, kubectl, call):
    """One sentence, the names that would do, and exit code 1; with and without a kubeconfig."""
    kubectl.tell(user={"token": "ada-token"}, port=port_of(api))
    for said in (
        await with_kubectl(kubectl, "status", "sumarizer"),
        await call("status", "sumarizer", "-n", "acme"),
    ):
        assert (said.code, said.out) == (1, "")
        first, second = said.err.splitlines()
        assert first == "There is no AgentInstance 'sumarizer' in namespace 'acme'."
        assert second.startswith("There are: ")
        assert "summarizer" in second


async def test_status_of_an_instance_shows_what_can_be_read(api, kubectl, call):
    """An object that is not published yet has conditions; who may not read objects still sees the queue."""
    kubectl.tell(
        user={"token": "ada-token"}, port=port_of(api), objects={"fresh": {**SUMMARIZER, "status": {}}}
    )
    fresh = await with_kubectl(kubectl, "status", "fresh")
    kubectl.tell(user={"token": "ada-token"}, port=port_of(api), forbidden="Error: you may not")
    unseen = await with_kubectl(kubectl, "status", "summarizer")
    elsewhere = await call("status", "summarizer", "-n", "acme")

    assert fresh.code == 1
    assert "no: the controller has not looked at it yet" in fresh.out
    assert "it is not published yet" in fresh.out
    assert (unseen.code, "you may not" in unseen.out, "Hands out:" in unseen.out) == (0, True, True)
    assert (elsewhere.code, "kubectl describe agi summarizer -n acme" in elsewhere.out) == (0, True)
    assert "It has no runs yet." in elsewhere.out
