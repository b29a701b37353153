"""The guarded client against real servers: what it lets out, and what it never does."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.servers import Reply, Server, make_certificate, serving
from tests.support.worker import Credentials

from everesthood.adapters.outbound import GuardedClient, Policy
from everesthood.apis.reasons import Reason
from everesthood.apis.wire import CredentialLease
from everesthood.domain.errors import OutcomeUnknown, StepFailed
from everesthood.usecases.ports.worker import Answer, Call

pytestmark = pytest.mark.integration

SECRET = "sk-canary-7f3a9c"
LEASE = CredentialLease(type="Bearer", value=SECRET, hosts=("inside.test",))


class Names:
    """A resolver that says what the test says, and remembers what it was asked."""

    def __init__(self, **names: list[list[str]]) -> None:
        self.names = {name.replace("_", "."): answers for name, answers in names.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.names.get(host, [["127.0.0.1"]])
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


@pytest.fixture
def other() -> Iterator[Server]:
    with serving() as one:
        yield one


@asynccontextmanager
async def client(
    *servers: Server,
    names: Names | None = None,
    egress: tuple[str, ...] = (),
    credentials: Any = None,
    slot_hosts: tuple[str, ...] = (),
    tls: ssl.SSLContext | None = None,
    internal: tuple[str, ...] | None = None,
) -> AsyncIterator[GuardedClient]:
    """Yield a client to which `inside.test` and `127.0.0.1` on the servers' ports are opened."""
    opened = [f"{host}:{s.port}" for s in servers for host in ("inside.test", "127.0.0.1")]
    policy = Policy(
        egress=egress,
        internal_hosts=frozenset(opened if internal is None else internal),
        slots={"key": slot_hosts},
    )
    made = GuardedClient(policy, credentials or Credentials(), resolve=names or Names(), tls=tls)
    try:
        yield made
    finally:
        await made.aclose()


def get(server: Server, path: str = "/", **fields: Any) -> Call:
    return Call(method="GET", url=f"http://inside.test:{server.port}{path}", **fields)


def post(server: Server, path: str = "/", **fields: Any) -> Call:
    return Call(method="POST", url=f"http://inside.test:{server.port}{path}", content=b"{}", **fields)


async def failure(guarded: GuardedClient, call: Call) -> StepFailed:
    with pytest.raises(StepFailed) as failed:
        await guarded.send(call)
    assert SECRET not in failed.value.message
    return failed.value


async def test_a_call_goes_out_as_it_was_meant(server: Server) -> None:
    """Method, path, headers and body arrive; the Host header speaks of the name, not the address."""
    server.replies["/a"] = Reply(status=201, headers={"X-Said": "yes"}, body=b"done")
    async with client(server) as guarded:
        call = Call(
            method="POST",
            url=f"http://inside.test:{server.port}/a?b=c%20d",
            headers=(("X-Own", "é"),),
            content=b"body",
        )
        answer = await guarded.send(call)

    asked = server.asked[0]
    assert answer == Answer(status=201, headers=answer.headers, body=b"done")
    assert answer.headers["x-said"] == "yes"
    assert (asked.method, asked.path, asked.body) == ("POST", "/a?b=c%20d", b"body")
    assert asked.headers["host"] == f"inside.test:{server.port}"
    assert asked.headers["user-agent"] == "everesthood"


async def test_no_proxy_and_no_cookie_of_the_environment_takes_part(
    server: Server, other: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxy variables are not read, and a cookie of one run never reaches another."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{other.port}")
    server.replies["/"] = Reply(headers={"Set-Cookie": "session=1; Path=/"})
    async with client(server) as guarded:
        await guarded.send(get(server))
        await guarded.send(get(server))

    assert other.asked == []
    assert all("cookie" not in asked.headers for asked in server.asked)


async def test_a_host_that_is_not_listed_is_not_even_resolved(server: Server) -> None:
    """Nothing leaves, not a DNS question, for a host that no list names."""
    names = Names()
    async with client(server, names=names) as guarded:
        failed = await failure(guarded, Call(method="GET", url="https://evil.example/"))

    assert failed.reason is Reason.HOST_REFUSED
    assert names.asked == []


@pytest.mark.parametrize("addresses", [["169.254.169.254"], ["93.184.216.34", "10.0.0.1"], ["::ffff:7f00:1"]])
async def test_a_listed_name_that_leads_inside_is_refused(server: Server, addresses: list[str]) -> None:
    """Every address that a name resolves to is judged; one bad address refuses the call."""
    names = Names(example_com=[addresses])
    async with client(server, names=names, egress=(f"example.com:{server.port}",)) as guarded:
        failed = await failure(guarded, Call(method="GET", url=f"http://example.com:{server.port}/"))

    assert failed.reason is Reason.ADDRESS_REFUSED
    assert server.asked == []


async def test_an_opened_name_cannot_lead_to_metadata(server: Server) -> None:
    """Even a host that the platform opened is refused once it leads to the metadata address."""
    names = Names(inside_test=[["169.254.169.254"]])
    async with client(server, names=names) as guarded:
        failed = await failure(guarded, get(server))

    assert failed.reason is Reason.ADDRESS_REFUSED


async def test_a_name_that_changes_its_mind_is_judged_each_time(server: Server) -> None:
    """DNS rebinding: a name that first led where it may is refused when it turns to metadata."""
    server.replies["/"] = Reply(parts=[b"ok"])  # and the connection is closed
    names = Names(inside_test=[["127.0.0.1"], ["169.254.169.254"]])
    async with client(server, names=names) as guarded:
        first = await guarded.send(get(server))
        second = await failure(guarded, get(server))

    assert first.body == b"ok"
    assert second.reason is Reason.ADDRESS_REFUSED
    assert len(server.asked) == 1


async def test_what_was_judged_is_what_is_connected_to(server: Server) -> None:
    """The name is resolved once for a connection; there is no second answer to slip in between."""
    server.replies["/"] = Reply(body=b"ok")
    names = Names(inside_test=[["127.0.0.1"], ["169.254.169.254"]])
    async with client(server, names=names) as guarded:
        answer = await guarded.send(get(server))

    assert answer.body == b"ok"
    assert names.asked == ["inside.test"]


async def test_a_redirect_to_metadata_is_refused(server: Server) -> None:
    """A redirect is judged as the first URL was."""
    server.replies["/"] = Reply(status=302, headers={"Location": "http://169.254.169.254/latest/"})
    async with client(server) as guarded:
        failed = await failure(guarded, get(server))

    assert failed.reason is Reason.ADDRESS_REFUSED
    assert "redirects to where the agent may not go" in failed.message


@pytest.mark.parametrize(
    "location", ["//evil.example/", "https://evil.example/", "\\\\evil.example", "ftp://a/"]
)
async def test_a_redirect_out_of_the_list_is_refused(server: Server, location: str) -> None:
    """No answer sends an agent to a host that its template does not list."""
    server.replies["/"] = Reply(status=302, headers={"Location": location})
    async with client(server) as guarded:
        failed = await failure(guarded, get(server))

    assert failed.reason is Reason.HOST_REFUSED


async def test_redirects_end(server: Server) -> None:
    """A loop of redirects is left after five."""
    server.replies["/"] = Reply(status=302, headers={"Location": "/"})
    async with client(server) as guarded:
        failed = await failure(guarded, get(server))

    assert failed.message.endswith("redirects more than 5 times")
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    ("status", "method", "body"),
    [(301, "GET", b""), (302, "GET", b""), (303, "GET", b""), (307, "POST", b"{}"), (308, "POST", b"{}")],
)
async def test_a_redirected_post_becomes_what_browsers_make_of_it(
    server: Server, status: int, method: str, body: bytes
) -> None:
    """301, 302 and 303 turn into GET without a body; 307 and 308 repeat the call."""
    server.replies["/"] = Reply(status=status, headers={"Location": "/b"})
    server.replies["/b"] = Reply(body=b"ok")
    async with client(server) as guarded:
        answer = await guarded.send(post(server, headers=(("Content-Type", "application/json"),)))

    last = server.asked[-1]
    assert answer.body == b"ok"
    assert (last.method, last.path, last.body) == (method, "/b", body)
    assert ("content-type" in last.headers) is bool(body)


async def test_a_redirect_is_handed_on_where_it_is_not_to_be_followed(server: Server) -> None:
    """A step that expects a redirect sees it."""
    server.replies["/"] = Reply(status=302, headers={"Location": "/b"})
    async with client(server) as guarded:
        answer = await guarded.send(get(server, follow_redirects=False))

    assert (answer.status, answer.headers["location"]) == (302, "/b")


async def test_a_credential_is_added_for_its_hosts(server: Server) -> None:
    """The value goes into the request by the client, as its type says."""
    server.replies["/"] = Reply(body=b"ok")
    hosts = (f"inside.test:{server.port}",)
    leases = {
        "Bearer": f"Bearer {SECRET}",
        "Basic": "Basic c2stY2FuYXJ5LTdmM2E5Yw==",
    }
    for kind, expected in leases.items():
        lease = CredentialLease(type=kind, value=SECRET, hosts=hosts)  # type: ignore[arg-type]
        async with client(server, credentials=Credentials(key=lease), slot_hosts=hosts) as guarded:
            await guarded.send(get(server, credential="key"))

        assert server.asked[-1].headers["authorization"] == expected

    own = CredentialLease(type="Header", header="X-Api-Key", value=SECRET, hosts=hosts)
    async with client(server, credentials=Credentials(key=own), slot_hosts=hosts) as guarded:
        await guarded.send(get(server, credential="key"))
    assert server.asked[-1].headers["x-api-key"] == SECRET


async def test_a_credential_is_not_even_leased_for_another_host(server: Server) -> None:
    """Editing a step's URL does not carry the slot's value elsewhere."""
    credentials = Credentials(key=LEASE)
    async with client(server, credentials=credentials, slot_hosts=("api.example.com",)) as guarded:
        failed = await failure(guarded, get(server, credential="key"))

    assert failed.reason is Reason.HOST_REFUSED
    assert credentials.asked == []
    assert server.asked == []


async def test_the_owner_of_a_credential_has_a_say_too(server: Server) -> None:
    """A template that lists a host in its slot does not get a value whose owner does not list it."""
    hosts = (f"inside.test:{server.port}",)
    lease = CredentialLease(type="Bearer", value=SECRET, hosts=("elsewhere.example",))
    async with client(server, credentials=Credentials(key=lease), slot_hosts=hosts) as guarded:
        failed = await failure(guarded, get(server, credential="key"))

    assert failed.reason is Reason.HOST_REFUSED
    assert server.asked == []


async def test_a_redirect_to_another_host_carries_no_credential(server: Server, other: Server) -> None:
    """Leased values, and an author's own Authorization header, stay with the host they were meant for."""
    server.replies["/"] = Reply(status=307, headers={"Location": f"http://127.0.0.1:{other.port}/b"})
    other.replies["/b"] = Reply(body=b"ok")
    hosts = (f"inside.test:{server.port}", f"127.0.0.1:{other.port}")
    lease = CredentialLease(type="Bearer", value=SECRET, hosts=hosts)
    async with client(server, other, credentials=Credentials(key=lease), slot_hosts=hosts) as guarded:
        await guarded.send(get(server, credential="key"))
        await guarded.send(get(server, headers=(("Authorization", "own"), ("Cookie", "a=b"), ("X-A", "1"))))

    assert server.asked[0].headers["authorization"] == f"Bearer {SECRET}"
    assert server.asked[1].headers["authorization"] == "own"
    assert all(not {"authorization", "cookie"} & asked.headers.keys() for asked in other.asked)
    assert other.asked[1].headers["x-a"] == "1"


async def test_an_answer_over_the_cap_is_cut_off(server: Server) -> None:
    """Announced or streamed, an answer larger than maxBytes is refused without being kept."""
    server.replies["/announced"] = Reply(body=b"x" * 2000)
    server.replies["/streamed"] = Reply(parts=[b"x" * 600] * 1000)
    async with client(server) as guarded:
        announced = await failure(guarded, get(server, "/announced", max_bytes=1000))
        streamed = await failure(guarded, get(server, "/streamed", max_bytes=1000))
        exact = await guarded.send(get(server, "/announced", max_bytes=2000))

    assert announced.reason is streamed.reason is Reason.OUTPUT_TOO_LARGE
    assert len(exact.body) == 2000


async def test_a_compressed_bomb_is_cut_off(server: Server) -> None:
    """The cap counts what unpacks, not what is sent."""
    bomb = gzip.compress(b"\0" * 50_000_000)
    server.replies["/"] = Reply(headers={"Content-Encoding": "gzip"}, body=bomb)
    async with client(server) as guarded:
        failed = await failure(guarded, get(server, max_bytes=1_000_000))

    assert failed.reason is Reason.OUTPUT_TOO_LARGE


async def test_compressed_answers_are_unpacked(server: Server) -> None:
    """gzip is understood; what only says that it is gzip is a failure, not a crash."""
    server.replies["/a"] = Reply(headers={"Content-Encoding": "gzip"}, body=gzip.compress(b"plain"))
    server.replies["/b"] = Reply(headers={"Content-Encoding": "gzip"}, body=b"no gzip at all")
    async with client(server) as guarded:
        answer = await guarded.send(get(server, "/a"))
        failed = await failure(guarded, get(server, "/b"))

    assert answer.body == b"plain"
    assert "broke off" in failed.message


@pytest.mark.parametrize("slow", ["head", "body"])
async def test_a_slow_answer_is_left_in_time(server: Server, slow: str) -> None:
    """A server that drips bytes cannot hold a step beyond its time; whether it acted is not known."""
    if slow == "body":
        server.replies["/"] = Reply(parts=[b"x"] * 1000, wait=lambda: server.ended.wait(0.05))
    else:
        server.replies["/"] = lambda _: Reply(body=b"late" if server.ended.wait(5) else b"")
    async with client(server) as guarded:
        failed = await failure(guarded, get(server, timeout_seconds=0.3))
        server.ended.set()

    assert isinstance(failed, OutcomeUnknown)
    assert failed.transient
    assert "did not answer within 0.3 s" in failed.message


async def test_a_call_that_never_left_is_a_plain_failure(server: Server) -> None:
    """Nobody listens, or the name is unknown: the call took no effect and may be tried again."""

    async def unknown(_host: str, _port: int) -> Sequence[str]:
        raise OSError("no such name")

    dead = Call(method="POST", url="http://inside.test:1/")
    async with client(server, internal=("inside.test:1",)) as guarded:
        shut = await failure(guarded, dead)
    async with client(server, names=unknown, internal=("inside.test:1",)) as guarded:  # type: ignore[arg-type]
        nameless = await failure(guarded, dead)

    for failed in (shut, nameless):
        assert not isinstance(failed, OutcomeUnknown)
        assert failed.transient
        assert failed.message == "POST inside.test:1 cannot be reached"


async def test_a_call_that_broke_off_may_have_taken_effect(server: Server) -> None:
    """A server that hangs up after it heard the request leaves the outcome unknown."""
    server.replies["/"] = Reply(hang_up=True)
    async with client(server) as guarded:
        failed = await failure(guarded, post(server))

    assert isinstance(failed, OutcomeUnknown)


async def test_headers_cannot_smuggle_a_second_request(server: Server) -> None:
    """Line breaks in values, and headers that frame the request, are refused."""
    async with client(server) as guarded:
        for name, value in (
            ("X-A", "1\r\nX-B: 2"), ("Host", "evil"), ("Content-Length", "0"), ("X-A", "\x7f"),
            ("Transfer-Encoding", "chunked"), ("Connection", "x"),
        ):  # fmt: skip
            await failure(guarded, get(server, headers=((name, value),)))

    assert server.asked == []


async def test_a_credential_that_no_header_can_carry_is_refused_without_its_value(server: Server) -> None:
    """A value with a line break inside fails its step; the message does not show it."""
    hosts = (f"inside.test:{server.port}",)
    lease = CredentialLease(type="Bearer", value=f"{SECRET}\nX-B: 2", hosts=hosts)
    async with client(server, credentials=Credentials(key=lease), slot_hosts=hosts) as guarded:
        failed = await failure(guarded, get(server, credential="key"))

    assert failed.reason is Reason.CREDENTIAL_NOT_READY
    assert server.asked == []


async def test_many_calls_at_once_share_connections(server: Server) -> None:
    """A hundred calls at once are answered."""
    server.replies["/"] = Reply(body=b"ok")
    async with client(server) as guarded:
        answers = await asyncio.gather(*(guarded.send(get(server)) for _ in range(100)))

    assert [a.body for a in answers] == [b"ok"] * 100


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "inside.test")


async def test_tls_speaks_of_the_name(certificate: tuple[Path, Path]) -> None:
    """The certificate is checked against the host of the URL, though the address was chosen before."""
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    with serving(certificate) as server:
        server.replies["/"] = Reply(body=b"ok")
        url = f"https://inside.test:{server.port}/"
        async with client(server, tls=trusting) as guarded:
            answer = await guarded.send(Call(method="GET", url=url))
        async with client(server, tls=trusting) as guarded:
            wrong_name = await failure(guarded, Call(method="GET", url=f"https://127.0.0.1:{server.port}/"))
        async with client(server) as guarded:
            untrusted = await failure(guarded, Call(method="GET", url=url))

    assert answer.body == b"ok"
    assert wrong_name.message.endswith("its certificate is not trusted")
    assert untrusted.message.endswith("its certificate is not trusted")


async def test_a_redirect_from_https_to_http_is_refused(
    certificate: tuple[Path, Path], other: Server
) -> None:
    """What began encrypted stays encrypted."""
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    with serving(certificate) as server:
        location = f"http://inside.test:{other.port}/"
        server.replies["/"] = Reply(status=302, headers={"Location": location})
        async with client(server, other, tls=trusting) as guarded:
            failed = await failure(guarded, Call(method="GET", url=f"https://inside.test:{server.port}/"))

    assert failed.message.endswith("redirects from https to http")
    assert other.asked == []
