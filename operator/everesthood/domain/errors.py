"""What can go wrong, as one flat family.

    EveresthoodError            reason, message, transient
    ├── Refused                 the caller asked for something that cannot be: do not repeat it
    │   ├── NotFound            it is not there, or not for the caller to see
    │   ├── Forbidden           the caller may not
    │   ├── Unauthenticated     nobody knows who the caller is
    │   ├── Invalid             the request breaks a rule; `problems` names the fields
    │   └── Conflict            it clashes with what is there
    ├── Unavailable             a part is down: repeat later (`retry_after_seconds`)
    ├── ExpressionFailed        an author's CEL or template text cannot be evaluated
    └── StepFailed              a step came to nothing
        ├── OutcomeUnknown      nobody knows whether it took effect
        └── KeyHeld             its credential's provider asked to wait; it did not happen

Adapters raise these at their edge and nothing else; entry points turn them into statuses.
"""

from dataclasses import dataclass

from everesthood.apis.reasons import Reason


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken rule: where, and what is wrong, as a person reads it."""

    path: str
    message: str
    reason: Reason = Reason.INVALID_SPEC


class EveresthoodError(Exception):
    """The root of the family."""

    reason: Reason = Reason.INTERNAL
    transient = False

    def __init__(self, message: str, reason: Reason | None = None) -> None:
        """Keep the sentence for a person and, where given, a narrower reason."""
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason


class Refused(EveresthoodError):  # noqa: N818 - the tree reads better without "Error" on every leaf
    """The caller asked for something that cannot be."""

    reason = Reason.BAD_REQUEST


class NotFound(Refused):
    """It is not there, or not for the caller to see."""

    reason = Reason.RUN_NOT_FOUND


class Forbidden(Refused):
    """The caller may not."""

    reason = Reason.FORBIDDEN


class Unauthenticated(Refused):
    """Nobody knows who the caller is."""

    reason = Reason.UNAUTHENTICATED


class Invalid(Refused):
    """The request breaks a rule."""

    reason = Reason.BAD_REQUEST

    def __init__(
        self, message: str, reason: Reason | None = None, problems: tuple[Problem, ...] = ()
    ) -> None:
        """Keep the fields at fault as well."""
        super().__init__(message, reason)
        self.problems = problems


class Conflict(Refused):
    """It clashes with what is there."""

    reason = Reason.CONFLICT


class Unavailable(EveresthoodError):  # noqa: N818
    """A part is down; the same call may succeed later."""

    reason = Reason.RECORD_UNAVAILABLE
    transient = True

    def __init__(self, message: str, reason: Reason | None = None, retry_after_seconds: int = 5) -> None:
        """Keep how long to wait."""
        super().__init__(message, reason)
        self.retry_after_seconds = retry_after_seconds


class ExpressionFailed(EveresthoodError):  # noqa: N818
    """An author's CEL or template text cannot be evaluated."""

    reason = Reason.STEP_FAILED


class StepFailed(EveresthoodError):  # noqa: N818
    """A step came to nothing; `transient` says whether another try may help."""

    reason = Reason.STEP_FAILED

    def __init__(
        self,
        message: str,
        reason: Reason | None = None,
        *,
        transient: bool = False,
        retry_after_seconds: float | None = None,
    ) -> None:
        """Keep whether and when another try may help."""
        super().__init__(message, reason)
        self.transient = transient
        self.retry_after_seconds = retry_after_seconds


class OutcomeUnknown(StepFailed):
    """A step was under way when it broke off; it may or may not have taken effect."""

    reason = Reason.OUTCOME_UNKNOWN


class KeyHeld(StepFailed):
    """The provider of the step's credential asked to wait, so the step did not happen."""

    reason = Reason.CREDENTIAL_HELD

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        """Keep for how long."""
        super().__init__(message, transient=True, retry_after_seconds=retry_after_seconds)
        self.seconds = retry_after_seconds
