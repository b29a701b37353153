"""The record in PostgreSQL: runs, what the controller published, and what happened to both."""

from everesthood.adapters.postgres.clock_store import PostgresClock
from everesthood.adapters.postgres.control import PostgresCancellations, PostgresControl
from everesthood.adapters.postgres.gateway_store import PostgresGateway
from everesthood.adapters.postgres.keep_store import PostgresKeeping
from everesthood.adapters.postgres.listen import Listener
from everesthood.adapters.postgres.migrate import check_schema, migrate
from everesthood.adapters.postgres.pool import Database
from everesthood.adapters.postgres.registry import PostgresRegistry
from everesthood.adapters.postgres.run_store import PostgresRuns
from everesthood.adapters.postgres.work_store import PostgresWork

__all__ = [
    "Database",
    "Listener",
    "PostgresCancellations",
    "PostgresClock",
    "PostgresControl",
    "PostgresGateway",
    "PostgresKeeping",
    "PostgresRegistry",
    "PostgresRuns",
    "PostgresWork",
    "check_schema",
    "migrate",
]
