"""Twins of the stores without a server, for tests of everything above them."""

from everesthood.adapters.memory.clock import MemoryClock
from everesthood.adapters.memory.control import MemoryCancellations, MemoryControl
from everesthood.adapters.memory.gateway import MemoryGateway
from everesthood.adapters.memory.keeping import MemoryKeeping
from everesthood.adapters.memory.record import Record
from everesthood.adapters.memory.registry import MemoryRegistry
from everesthood.adapters.memory.runs import MemoryRuns
from everesthood.adapters.memory.work import MemoryWork

__all__ = [
    "MemoryCancellations",
    "MemoryClock",
    "MemoryControl",
    "MemoryGateway",
    "MemoryKeeping",
    "MemoryRegistry",
    "MemoryRuns",
    "MemoryWork",
    "Record",
]
