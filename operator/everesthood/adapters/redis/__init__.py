"""Redis or Valkey: the bell, and the users who may hear it."""

from everesthood.adapters.redis.bell import RedisBell
from everesthood.adapters.redis.connection import RedisAddress, connect
from everesthood.adapters.redis.users import RedisBrokerUsers

__all__ = ["RedisAddress", "RedisBell", "RedisBrokerUsers", "connect"]
