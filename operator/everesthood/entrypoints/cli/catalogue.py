"""The catalogue of reasons with its sentences, for `explain` and for the reference page."""

import ast
import difflib
import inspect
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

from everesthood.apis import reasons
from everesthood.apis.reasons import Reason
from everesthood.entrypoints.cli.exits import Code, Stopped


@cache
def sentences() -> dict[str, str]:
    """Return what each reason means. Python drops the text below a member, so the source is read."""
    body = next(
        node.body
        for node in ast.parse(inspect.getsource(reasons)).body
        if isinstance(node, ast.ClassDef) and node.name == Reason.__name__
    )
    return dict(_pairs(body))


def explain(reason: str) -> str:
    """Return what a reason means."""
    known = {name.lower(): name for name in sentences()}
    if reason.lower() in known:
        name = known[reason.lower()]
        return f"{name}\n  {sentences()[name]}"
    near = [known[name] for name in difflib.get_close_matches(reason.lower(), known, n=3)]
    hint = f"Did you mean {' or '.join(near)}?" if near else "`everesthood explain` lists all."
    raise Stopped(f"There is no reason {reason!r}.", Code.REFUSED, hint)


def _pairs(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for member, below in pairwise(body):
        if isinstance(member, ast.Assign) and isinstance(member.value, ast.Constant):
            yield str(member.value.value), _text(below)


def _text(node: ast.stmt) -> str:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return " ".join(str(node.value.value).split()) if is_text else ""  # type: ignore[attr-defined]
