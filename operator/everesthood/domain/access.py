"""What each operation of the REST API needs: one verb on a subresource of `agentinstances`.

The table is the whole truth: a route that is not in it cannot be built, and
`kubectl auth can-i VERB agentinstances --subresource=SUBRESOURCE` answers the same question.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

RESOURCE: Final = "agentinstances"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A verb on a subresource of an AgentInstance, by the instance's name where it is known."""

    verb: str
    subresource: str

    def __str__(self) -> str:
        """Return it as a person says it."""
        return f"{self.verb} {RESOURCE}/{self.subresource}"


REQUIRED: Final[Mapping[str, Requirement]] = MappingProxyType(
    {
        "createRun": Requirement(verb="create", subresource="run"),
        "createRuns": Requirement(verb="create", subresource="run"),
        "listRuns": Requirement(verb="list", subresource="runs"),
        "getRun": Requirement(verb="get", subresource="runs"),
        "listSteps": Requirement(verb="get", subresource="runs"),
        "getStepOutput": Requirement(verb="get", subresource="runs"),
        "cancelRun": Requirement(verb="create", subresource="cancel"),
        "replayRun": Requirement(verb="create", subresource="run"),
        "replayRuns": Requirement(verb="create", subresource="run"),
        "getRunLog": Requirement(verb="get", subresource="logs"),
        "listSchedules": Requirement(verb="list", subresource="schedules"),
        "runSchedule": Requirement(verb="create", subresource="run"),
        "decideApproval": Requirement(verb="create", subresource="approve"),
        "resolveRun": Requirement(verb="create", subresource="resolve"),
        "listQueues": Requirement(verb="list", subresource="queue"),
        "getQueue": Requirement(verb="get", subresource="queue"),
        "pauseQueue": Requirement(verb="create", subresource="pause"),
        "resumeQueue": Requirement(verb="create", subresource="pause"),
        "stopOrganization": Requirement(verb="create", subresource="stop"),
        "startOrganization": Requirement(verb="create", subresource="stop"),
    }
)
"""By the operation's id in the OpenAPI document."""

PUBLIC: Final = frozenset({"getDocs", "getDocsScript", "getOpenApi"})
"""Operations that answer anybody: they say what the API is, never what is in it."""
