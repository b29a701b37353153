"""Makes and removes the Redis users of instances. Needs admin rights, which only the scheduler has."""

from pathlib import Path

import structlog
from redis.asyncio import Redis

from everesthood.adapters.redis.acl import bell_rules, worker_rules
from everesthood.adapters.redis.connection import redis_errors
from everesthood.apis.names import broker_user, queue_prefix
from everesthood.apis.reasons import Reason
from everesthood.domain.broker import broker_password, password_digest
from everesthood.domain.errors import Unavailable

_log = structlog.get_logger(__name__)
_SCAN = 1000
_CLUSTER = (
    "Redis runs as a cluster (cluster-enabled), which is not supported: "
    "give redis.external the address of a single server, or of a primary with replicas"
)


class RedisBrokerUsers:
    """Users by ACL SETUSER: lost when Redis restarts, so whoever keeps them looks again and again."""

    def __init__(self, redis: Redis, *, bell_key_file: str, bell_password_file: str) -> None:
        """Derive workers' passwords from the key; read the bell user's from its file."""
        self._redis = redis
        self._bell_key = Path(bell_key_file)
        self._bell_password = Path(bell_password_file) if bell_password_file else None

    async def ensure(self, instance_uid: str) -> None:
        """Make the user, or bring it back to what it should be."""
        password = broker_password(self._bell_key.read_bytes().strip(), instance_uid)
        with redis_errors():
            await self._set_user(worker_rules(instance_uid, password_digest(password)))

    async def ensure_bell(self) -> None:
        """Make the user that web and gateway ring with."""
        if self._bell_password is None:
            return
        password = self._bell_password.read_text(encoding="utf-8").strip()
        with redis_errors():
            await self._set_user(bell_rules(password_digest(password)))

    async def remove(self, instance_uid: str) -> None:
        """Remove the user and its keys; Redis closes the connections of a user that goes."""
        with redis_errors():
            await self._redis.acl_deluser(broker_user(instance_uid))
            async for key in self._redis.scan_iter(match=f"{queue_prefix(instance_uid)}*", count=_SCAN):
                await self._redis.unlink(key)

    async def existing(self) -> frozenset[str]:
        """Return the uids of the instances whose user exists.

        Raises Unavailable when Redis cannot be reached, or is a cluster: users are of one node, as bells are.
        """
        prefix = broker_user("")
        with redis_errors():
            if (await self._redis.info("cluster")).get("cluster_enabled"):
                raise Unavailable(_CLUSTER, Reason.QUEUE_PENDING)
            users = [str(user) for user in await self._redis.acl_users()]
        return frozenset(user.removeprefix(prefix) for user in users if user.startswith(prefix))

    async def _set_user(self, rules: tuple[str, ...]) -> None:
        await self._redis.execute_command("ACL SETUSER", *rules)  # type: ignore[no-untyped-call]
