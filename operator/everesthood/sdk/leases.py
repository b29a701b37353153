"""A credential in the hands of a code agent."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A leased credential. Its value stays out of `repr`, and out of logs and outputs of the run.

    Prefer `ctx.http` and `ctx.llm` with `credential=`: they add the value themselves, to its hosts only.
    Do not keep it: ask for it again when you need it, so that a rotated value reaches you.
    """

    type: Literal["Bearer", "Header", "Basic"]
    value: str = field(repr=False)
    header: str = ""
    hosts: tuple[str, ...] = ()
