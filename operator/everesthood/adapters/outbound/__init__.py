"""The guarded way out of a worker: the only HTTP client that agents' calls go through."""

from everesthood.adapters.outbound.client import GuardedClient
from everesthood.adapters.outbound.policy import Policy

__all__ = ["GuardedClient", "Policy"]
