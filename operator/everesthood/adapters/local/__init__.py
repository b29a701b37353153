"""One machine instead of a cluster: servers from wheels, and identities from a file. For development only."""

from everesthood.adapters.local.servers import Servers, running_servers
from everesthood.adapters.local.world import LocalWorld, Person, Seat, World, write_world

__all__ = ["LocalWorld", "Person", "Seat", "Servers", "World", "running_servers", "write_world"]
