"""The schema: made once, by one process at a time, and every other schema is refused."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.support.postgres import Databases, free_port
from tests.support.record import databases

from everesthood.adapters.postgres import Database, check_schema, migrate
from everesthood.adapters.postgres.migrate import migrations
from everesthood.domain.errors import Conflict, Unavailable
from everesthood.domain.limits import scopes as limit_scopes
from everesthood.entrypoints.cli.migrate import migrate as command

__all__ = ["databases"]
pytestmark = pytest.mark.integration
NEWEST = migrations()[-1].version


@pytest.fixture
async def empty(databases: Databases) -> AsyncIterator[str]:
    url = await databases.empty()
    yield url
    await databases.drop(url)


@pytest.fixture
async def database(empty: str) -> AsyncIterator[Database]:
    database = Database(lambda: empty)
    yield database
    await database.close()


async def test_an_empty_database_is_refused_until_it_is_migrated(database: Database):
    """A process on a schema that is too old waits, and says which command brings it forward."""
    with pytest.raises(Unavailable) as refused:
        await check_schema(database)

    applied = await migrate(database)

    await check_schema(database)
    assert refused.value.message == (
        f"The database schema is at version 0, this program needs {NEWEST}: run `everesthood migrate`."
    )
    assert applied == [step.name for step in migrations()]
    assert await migrate(database) == []


async def test_migrations_that_start_together_do_not_meet(empty: str):
    """Every replica may migrate at its start: each step is applied once."""
    together = [Database(lambda: empty) for _ in range(5)]

    applied = await asyncio.gather(*(migrate(one) for one in together))

    assert max(applied, key=len) == [step.name for step in migrations()]
    assert sum(map(len, applied)) == len(migrations())
    for one in together:
        await one.close()


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (
            "insert into schema_version values (9999, '9999_future', 'x')",
            f"is at version 9999, newer than the {NEWEST} that this program knows",
        ),
        ("update schema_version set checksum = 'edited'", "the database belongs to another build"),
    ],
)
async def test_a_schema_of_another_version_is_left_alone(database: Database, statement: str, says: str):
    """Neither start nor migration touches a schema that this version does not know."""
    await migrate(database)
    async with database.acquire() as connection:
        await connection.execute(statement)

    for act in (check_schema, migrate):
        with pytest.raises(Conflict) as refused:
            await act(database)
        assert says in refused.value.message
        assert "\n" not in refused.value.message


def test_the_command_says_what_it_did(databases: Databases, monkeypatch, capsys):
    """`everesthood migrate` applies, tells, and does nothing the second time; --check only looks."""
    url = asyncio.run(databases.empty())
    monkeypatch.setenv("EVERESTHOOD_DATABASE_URL", url)
    with pytest.raises(SystemExit) as refused:
        command(check=True)

    command()
    command()
    command(check=True)

    printed = capsys.readouterr().out
    assert "run `everesthood migrate`" in str(refused.value)
    assert printed.count("applied 0001_record\n") == 1
    assert printed.count("the schema is up to date\n") == 3
    asyncio.run(databases.drop(url))


def test_a_database_that_is_away_is_said_in_one_sentence(monkeypatch):
    """Without a server, --check ends with a sentence and no traceback."""
    monkeypatch.setenv("EVERESTHOOD_DATABASE_URL", f"postgresql://x@127.0.0.1:{free_port()}/x")

    with pytest.raises(SystemExit) as ended:
        command(check=True)

    assert ended.value.code == "PostgreSQL cannot be reached."


async def test_a_server_that_is_away_is_unavailable_not_unknown():
    """A start can tell a server that is down from a schema that is wrong."""
    database = Database(lambda: f"postgresql://x@127.0.0.1:{free_port()}/x")

    with pytest.raises(Unavailable):
        await check_schema(database)
    await database.close()


async def test_limits_of_templates_hold_through_the_upgrade(database: Database):
    """What each instance of a template had by itself becomes the strictest of it for all of them, at once."""
    before, last = migrations()[:7], migrations()[7]
    async with database.acquire() as connection:
        for step in before:
            await connection.execute(step.text)
        for uid, namespace in (("a", "acme"), ("b", "acme"), ("c", "globex")):
            await connection.execute(
                "insert into instance (uid, namespace, name, generation, template, service_account, config, bindings)"
                " values ($1, $2, $1, 1, 'greeting', 'x', '{}', '{\"slot\": \"key\"}')",
                uid,
                namespace,
            )
        await connection.execute(
            "insert into run_limit (scope, concurrency) values ('template/a', 5), ('template/b', 3), ('instance/a', 9)"
        )
        async with connection.transaction():
            await connection.execute(last.text)
        limits = await connection.fetch("select scope, concurrency from run_limit order by scope")
        scopes = await connection.fetchval("select scopes from instance where uid = 'a'")

    assert [tuple(row) for row in limits] == [("instance/a", 9), ("template/acme/greeting", 3)]
    assert tuple(scopes) == limit_scopes("a", "acme", "greeting", ["key"])
