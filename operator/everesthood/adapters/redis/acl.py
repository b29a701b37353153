"""Rights of every user in Redis, as allow-lists: what is not named here is refused.

A deny-list leaks: SCAN, PUBSUB and SCRIPT FLUSH are neither dangerous nor admin to Redis.
"""

from typing import Final

from everesthood.apis.names import broker_user, queue_prefix

BELL_USER: Final = "bell"

_CONNECT: Final = ("+hello", "+auth", "+ping", "+select", "+client|setname")
_CONSUME: Final = (
    *("+multi", "+exec", "+watch", "+unwatch", "+lpush", "+rpush", "+brpop", "+llen"),
    *("+hset", "+hget", "+hdel", "+zadd", "+zrem", "+zrange", "+zrangebyscore", "+zrevrangebyscore"),
    *("+sadd", "+srem", "+smembers", "+get", "+set", "+del", "+expire", "+pexpire"),
    # Kombu releases its restore lock by script; a script runs under these same rights.
    *("+evalsha", "+script|load"),
)
_RING: Final = ("+evalsha", "+script|load", "+set", "+del", "+llen", "+lpush")


def worker_rules(instance_uid: str, password_sha256: str) -> tuple[str, ...]:
    """Return the ACL SETUSER arguments of an instance's workers: their own keys, no channel at all."""
    return (
        broker_user(instance_uid),
        *_fresh(password_sha256, f"~{queue_prefix(instance_uid)}*"),
        *_CONNECT,
        *_CONSUME,
    )


def bell_rules(password_sha256: str) -> tuple[str, ...]:
    """Return the ACL SETUSER arguments of those who ring: web and gateway."""
    return (BELL_USER, *_fresh(password_sha256, "~agi:*"), *_CONNECT, *_RING)


def _fresh(password_sha256: str, keys: str) -> tuple[str, ...]:
    return ("reset", "on", f"#{password_sha256}", keys, "resetchannels", "-@all")
