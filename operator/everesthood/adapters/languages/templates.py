"""minijinja templates: strict about undefined names, bounded by fuel, alone in their world.

There is no include, import or macro, so a template is exactly the text in the manifest; and no
`namespace` or `debug`, since one can contain itself (which ends the process) and one tells too much.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Literal

from minijinja import Environment, TemplateError

from everesthood.adapters.languages.values import frozen, written
from everesthood.domain.errors import ExpressionFailed
from everesthood.domain.languages import References

MAX_LENGTH: Final = 32_768
MAX_OUTPUT: Final = 1_048_576
_FUEL: Final = 100_000
_GLOBALS: Final = frozenset({"range", "dict"})
_REMOVED: Final = ("debug", "namespace")
_ALONE: Final = ("include", "import", "from", "extends", "block", "macro", "call")
_HIDDEN: Final = re.compile(r"\{#.*?#\}|\{%-?\s*raw\s*-?%\}.*?\{%-?\s*endraw\s*-?%\}", re.DOTALL)
_STATEMENT: Final = re.compile(r"\{%[-+]?\s*([a-z]+)")
_FATAL: Final = {
    "OutOfFuel": "it loops too long",
    "UnknownFilter": "",
    "UnknownTest": "",
    "UnknownFunction": "",
}


def _environment(undefined: Literal["strict", "chainable"]) -> Environment:
    made = Environment(
        fuel=_FUEL,
        undefined_behavior=undefined,
        pycompat=False,
        debug=False,
        auto_escape_callback=lambda _name: False,
        finalizer=written,
        keep_trailing_newline=True,
    )
    for name in _REMOVED:
        made.remove_global(name)
    return made


_STRICT: Final = _environment("strict")
_TRIAL: Final = _environment("chainable")


@lru_cache(maxsize=2048)
def references(text: str) -> References:
    """Return what a template refers to; raise ExpressionFailed when it cannot be parsed."""
    try:
        names = _STRICT.undeclared_variables_in_str(text)
        paths = _STRICT.undeclared_variables_in_str(text, nested=True)
    except TemplateError as error:
        raise ExpressionFailed(_said(error)) from None
    steps = frozenset(path.split(".")[1] for path in paths if path.startswith("steps."))
    return References(
        roots=frozenset(names) - _GLOBALS,
        steps=steps,
        whole_steps="steps" in paths,
        functions=_GLOBALS & frozenset(names),
    )


def problem(text: str) -> str | None:
    """Return what is wrong with a template, by parsing it and by a trial run without variables."""
    if len(text) > MAX_LENGTH:
        return f"the template is longer than {MAX_LENGTH} characters"
    for word in _STATEMENT.findall(_HIDDEN.sub("", text)):
        if word in _ALONE:
            return f"{{% {word} %}} is not supported; a template stands alone"
    try:
        references(text)
    except ExpressionFailed as error:
        return error.message
    return _trial(text)


def _trial(text: str) -> str | None:
    """Run the template on nothing: what fails here for these reasons fails with any values."""
    try:
        _TRIAL.render_str(text)
    except TemplateError as error:
        if error.kind in _FATAL:
            return _FATAL[error.kind] or _said(error)
        if "range has too many elements" in (error.detail or ""):
            return "it loops too long: range() has too many elements"
    except Exception:  # noqa: BLE001 - a missing value may raise anything; only the kinds above count
        return None
    return None


def render(text: str, variables: Mapping[str, object]) -> str:
    """Return the text with its variables filled in."""
    found = references(text)
    given = {name: frozen(variables[name]) for name in found.roots if name in variables}
    try:
        result = _STRICT.render_str(text, **given)
    except TemplateError as error:
        raise ExpressionFailed(_explained(error, found, variables)) from None
    except Exception as error:  # noqa: BLE001 - a value's method may raise anything
        raise ExpressionFailed(str(error)[:300]) from None
    if len(result) > MAX_OUTPUT:
        raise ExpressionFailed(f"the template's result is longer than {MAX_OUTPUT} characters")
    return result


def _explained(error: TemplateError, found: References, variables: Mapping[str, object]) -> str:
    missing = sorted(found.roots - variables.keys())
    if error.kind == "UndefinedError" and missing:
        return f"line {error.line}: there is no variable {missing[0]!r}"
    return _said(error)


def _said(error: TemplateError) -> str:
    if error.kind == "OutOfFuel":
        return "it loops too long"
    text = error.detail or error.message.partition(" (in ")[0].partition("\n")[0]
    if error.kind == "UnknownFunction":
        text = f"function {text}"
    if error.kind == "UndefinedError":
        text = "a value that it uses is missing"
    return f"line {error.line}: {text}"[:300] if error.line else text[:300]
