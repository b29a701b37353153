"""The web process with one thing left out: `python -m tests.bench.engine.without FEATURE`.

Only for telling what the feature costs: what is left out here is what makes the process safe to run.
"""

import re
import sys
from collections.abc import Callable, Mapping
from typing import Final

from everesthood.adapters.postgres import pool
from everesthood.adapters.redis import RedisBell
from everesthood.entrypoints.web import main, middleware
from everesthood.usecases.authorize import Authorizer
from everesthood.usecases.ports.identity import Identity
from everesthood.usecases.request_run import RequestRun


def authentication() -> None:
    """Whoever calls is Ada."""
    ada = Identity(username="ada")

    async def anybody(_: Authorizer, _token: str) -> Identity:
        return ada

    Authorizer.authenticate = anybody  # type: ignore[method-assign,assignment]


def permission() -> None:
    """Whoever calls may."""

    async def may(*_: object, **__: object) -> None:
        return

    Authorizer.require = may  # type: ignore[method-assign,assignment]


def schema() -> None:
    """Any input will do."""

    async def fits(*_: object) -> None:
        return

    RequestRun._check = fits  # type: ignore[method-assign,assignment]


def audit() -> None:
    """No line for the run."""
    text = without_audit()
    plain = pool.sql
    pool.sql = lambda name: text if name == "accept" else plain(name)  # type: ignore[assignment]


def without_audit() -> str:
    """Return the statement that accepts runs, less the audit line of each."""
    text = re.sub(r", noted as \(.*?\n\)(?=\n)", "", pool.sql("accept"), flags=re.DOTALL)
    assert "insert into audit" not in text
    return text


def line() -> None:
    """Nothing said of the request."""
    middleware._log = _Silent()


def metrics() -> None:
    """Nothing counted."""
    middleware.SECONDS.__class__.observe = _nothing  # type: ignore[method-assign]
    middleware.REQUESTS.__class__.inc = _nothing  # type: ignore[method-assign]


def bell() -> None:
    """Nobody told: the scheduler finds what is due."""

    async def silent(*_: object) -> None:
        return

    RedisBell.ring = silent  # type: ignore[method-assign,assignment]


class _Silent:
    def info(self, *_: object, **__: object) -> None:
        return

    exception = info


def _nothing(*_: object, **__: object) -> None:
    return


FEATURES: Final[Mapping[str, Callable[[], None]]] = {
    "authentication": authentication,
    "permission": permission,
    "schema": schema,
    "audit": audit,
    "line": line,
    "metrics": metrics,
    "bell": bell,
    "nothing": lambda: None,
}

if __name__ == "__main__":
    FEATURES[sys.argv[1]]()
    main.main()
