"""Reads a CEL expression as tokens: which variables it uses, and how deeply it loops.

The engine lists variable names only; rules need to know which step `steps.<name>` means and which
names a macro such as `items.map(x, …)` binds.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from everesthood.domain.languages import References

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    |(?P<string>(?:[rR][bB]?|[bB][rR])(?:"[^"]*"|'[^']*')
        |[bB]?(?:\"\"\"(?:\\.|(?!\"\"\").)*\"\"\"|'''(?:\\.|(?!''').)*'''
        |"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'))
    |(?P<number>0[xX][0-9a-fA-F]+[uU]?|[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?[uU]?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)
_WORDS: Final = frozenset({"true", "false", "null", "in"})
MACROS: Final = frozenset({"map", "filter", "all", "exists", "exists_one", "existsOne"})


class Token(NamedTuple):
    """A piece of the expression."""

    kind: str
    text: str


@dataclass(slots=True)
class Scan:
    """What one pass over the tokens found."""

    roots: set[str] = field(default_factory=set)
    steps: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    whole_steps: bool = False
    loops: int = 0
    mentions: int = 0
    commas: int = 0

    def references(self) -> References:
        """Return what rules look at."""
        return References(
            roots=frozenset(self.roots),
            steps=frozenset(self.steps),
            functions=frozenset(self.functions),
            whole_steps=self.whole_steps,
            loops=self.loops,
        )


def tokens(expression: str) -> list[Token]:
    """Return the tokens without blanks and comments, closed by an empty one."""
    found = (Token(m.lastgroup or "", m.group()) for m in _TOKEN.finditer(expression))
    return [t for t in found if t.kind != "space"] + [Token("end", "")]


def scan(expression: str) -> Scan:
    """Return what the expression refers to. It must be one that the engine can parse."""
    reader = _Reader(tokens(expression))
    for index, token in enumerate(reader.items):
        reader.see(index, token)
    return reader.found


class _Reader:
    def __init__(self, items: list[Token]) -> None:
        self.items = items
        self.found = Scan()
        self._open: list[str | None] = []

    def see(self, index: int, token: Token) -> None:
        match token:
            case Token("mark", "(" | "[" | "{"):
                self._enter(index)
            case Token("mark", ")" | "]" | "}"):
                if self._open:
                    self._open.pop()
            case Token("mark", ","):
                self.found.commas += 1
            case Token("name", name) if name not in _WORDS:
                self._name(index, name)
            case _:
                pass

    def _enter(self, index: int) -> None:
        self._open.append(self._binding(index))
        self.found.loops = max(self.found.loops, sum(b is not None for b in self._open))

    def _binding(self, index: int) -> str | None:
        """Return the name that a macro opening here binds."""
        before = self.items[max(index - 2, 0) : index]
        if len(before) < 2 or before[0].text != "." or before[1].text not in MACROS:  # noqa: PLR2004
            return None
        name, comma = self.items[index + 1], self.items[min(index + 2, len(self.items) - 1)]
        return name.text if name.kind == "name" and comma.text == "," else None

    def _name(self, index: int, name: str) -> None:
        after = self.items[index + 1].text
        is_member = index > 0 and self.items[index - 1].text == "."
        if after == "(":
            self.found.functions.add(name)
        elif not is_member and name not in self._open:
            self._root(index, name)

    def _root(self, index: int, name: str) -> None:
        self.found.roots.add(name)
        self.found.mentions += 1
        if name == "steps":
            step = next(self._step(index), None)
            if step is None:
                self.found.whole_steps = True
            else:
                self.found.steps.add(step)

    def _step(self, index: int) -> Iterator[str]:
        window = [*self.items[index + 1 : index + 4], *[Token("end", "")] * 3]
        match window[0].text, window[1], window[2].text:
            case ".", Token("name", name), after if after != "(":
                yield name
            case "[", Token("string", text), "]":
                yield text.strip("\"'")
            case _:
                return
