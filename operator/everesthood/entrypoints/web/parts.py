"""What the web process is made of; bootstrap builds it, tests build it from fakes."""

from dataclasses import dataclass, field

from everesthood.entrypoints.web.streams import Streams
from everesthood.usecases.authorize import Authorizer
from everesthood.usecases.ports.bell import Bell
from everesthood.usecases.ports.control import ControlStore
from everesthood.usecases.ports.record import RunStore
from everesthood.usecases.request_run import RequestRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Collaborators of the routes."""

    authorizer: Authorizer
    runs: RunStore
    control: ControlStore
    bell: Bell
    request_run: RequestRun
    streams: Streams = field(default_factory=Streams)
