"""One way to connect to Redis, with a password that is read anew at each connect."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Unavailable

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """Where Redis is and who we are there."""

    host: str
    port: int
    user: str
    password_file: str
    tls: bool = False
    ca_file: str = ""


class _PasswordFile(CredentialProvider):
    """Reads the password at each connect, so that a rotated Secret needs no restart."""

    def __init__(self, user: str, path: str) -> None:
        self._user = user
        self._path = Path(path)

    def get_credentials(self) -> tuple[str, str]:
        try:
            return self._user, self._path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise RedisConnectionError(f"The password file of Redis cannot be read: {error}.") from None

    async def get_credentials_async(self) -> tuple[str, str]:
        return self.get_credentials()


def connect(address: RedisAddress, *, process: str, connections: int = 4) -> Redis:
    """Return a client; it connects when first used, and again after Redis was away."""
    credentials = _PasswordFile(address.user, address.password_file) if address.password_file else None
    tls: dict[str, Any] = {"ssl_ca_certs": address.ca_file or None} if address.tls else {}
    # One retry, for a connection that died while idle; then each caller goes on without Redis.
    pool = BlockingConnectionPool(
        connection_class=SSLConnection if address.tls else Connection,
        host=address.host,
        port=address.port,
        credential_provider=credentials,
        client_name=f"everesthood-{process}",
        driver_info=None,
        decode_responses=True,
        max_connections=connections,
        timeout=int(_ANSWER_SECONDS),
        socket_connect_timeout=_CONNECT_SECONDS,
        socket_timeout=_ANSWER_SECONDS,
        socket_keepalive=True,
        health_check_interval=10,
        retry=Retry(NoBackoff(), 1),
        **tls,
    )
    return Redis.from_pool(pool)


@contextmanager
def redis_errors() -> Iterator[None]:
    """Translate what Redis throws; its texts name commands and users, never a password."""
    try:
        yield
    except ResponseError as error:
        raise Unavailable(f"Redis refuses: {error}", Reason.QUEUE_PENDING) from error
    except (RedisError, OSError) as error:
        raise Unavailable(f"Redis cannot be reached: {error}", Reason.QUEUE_PENDING) from error
