"""Brings children to what they should be: nothing where nothing differs, and never what is not ours."""

from dataclasses import dataclass, field

from everesthood.apis.reasons import Reason
from everesthood.domain.children import Child, is_as_asked
from everesthood.domain.errors import Problem
from everesthood.domain.observed import Live
from everesthood.usecases.ports.cluster import ApiError, Cluster, View

_CONFLICT = 409
_REMEMBERED = 20_000


class Leftover(Exception):  # noqa: N818 - not a failure: it is waited for
    """A child of an earlier object of the same name is still there; it goes by itself."""


@dataclass(slots=True)
class Settled:
    """Generation and hash of each child right after its last apply, by uid; the oldest are forgotten."""

    marks: dict[str, tuple[int, str]] = field(default_factory=dict)

    def remember(self, live: Live) -> None:
        """Keep how the API server left it."""
        self.marks.pop(live.uid, None)
        self.marks[live.uid] = (live.generation, live.hash)
        if len(self.marks) > _REMEMBERED:
            del self.marks[next(iter(self.marks))]


async def bring(child: Child, *, view: View, cluster: Cluster, settled: Settled) -> Problem | None:
    """Apply the child if it is not as it should be; return why that is impossible.

    Raises:
        Leftover: its name is taken by something that is about to go.
        Unavailable: the API server cannot be reached.
        ApiError: the namespace is going away, or the child was replaced meanwhile.
    """
    live = view.get(child.key)
    if live is None or live.owner == child.owner:
        if live and is_as_asked(child, live, settled=settled.marks.get(live.uid)):
            return None
        return await _apply(child, live, view=view, cluster=cluster, settled=settled)
    return _taken(child, live, view)


def _taken(child: Child, live: Live, view: View) -> Problem:
    """Return that the name belongs to somebody, unless that one is about to go."""
    if live.deleting or (
        live.owner and live.labels.items() >= child.labels.items() and not view.knows(live.owner)
    ):
        raise Leftover(str(child.key))
    return Problem(
        "",
        f"{child.key.kind} {child.key.name} exists and is not Everesthood's; it is left alone.",
        Reason.CONFLICT,
    )


async def _apply(
    child: Child, live: Live | None, *, view: View, cluster: Cluster, settled: Settled
) -> Problem | None:
    try:
        settled.remember(await cluster.apply(child, live))
    except ApiError as error:
        if error.is_gone:
            raise
        there = await cluster.look(child.key)
        if there is None or there.owner == child.owner:
            if live is None and there is not None:  # ours, but with a label gone that the watch goes by
                return await _apply(child, there, view=view, cluster=cluster, settled=settled)
            return _refused(child, error)
        return _taken(child, there, view)
    return None


def _refused(child: Child, error: ApiError) -> Problem:
    """Return what the API server has against a child that is ours."""
    if error.status == _CONFLICT:
        raise error  # a race that the next pass sees the end of
    return Problem(f"{child.key.kind} {child.key.name}", error.message, Reason.APPLY_REFUSED)
