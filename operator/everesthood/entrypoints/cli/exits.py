"""How a command ends: its exit code, and one sentence when it does not end well."""

from enum import IntEnum


class Code(IntEnum):
    """Exit codes, the same for every command."""

    OK = 0
    """It is done; with --follow, the run succeeded."""
    REFUSED = 1
    """The API refused, or the run did not succeed."""
    USAGE = 2
    """The command line or the input cannot be read."""
    UNREACHABLE = 3
    """The API, Kubernetes or a program that is needed cannot be reached; try again later."""


class Stopped(Exception):  # noqa: N818 - it is an end, not always an error
    """The command cannot go on."""

    def __init__(self, message: str, code: Code, hint: str = "", *, reason: str = "") -> None:
        """Keep what happened, how to exit, what to do next, and the reason that the API gave."""
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.reason = reason
