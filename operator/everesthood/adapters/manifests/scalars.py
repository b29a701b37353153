"""What a YAML scalar means to kubectl: YAML 1.1 words for booleans, dates as text."""

import re
from typing import Any, Final

_TRUE: Final = frozenset({"y", "yes", "true", "on"})
_FALSE: Final = frozenset({"n", "no", "false", "off"})
_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_INT: Final = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_OTHER_INT: Final = re.compile(r"[-+]?0(x[0-9a-fA-F_]+|o[0-7_]+|b[01_]+)")
_OLD_OCTAL: Final = re.compile(r"[-+]?0[0-7_]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TAG: Final = "tag:yaml.org,2002:"
_TAGS: Final = frozenset({"str", "int", "float", "bool", "null", "timestamp", "merge", "value"})


def plain_value(node: Any) -> object:  # noqa: ANN401 - the library's nodes are untyped
    """Return the JSON value of a scalar; raise ValueError for a tag that JSON lacks."""
    text, tag = str(node.value), str(node.tag).removeprefix(_TAG)
    if tag not in _TAGS:
        raise ValueError(f"the tag {node.tag} is not supported")
    value = _resolved(text) if node.style is None else text
    if tag == "str" and not isinstance(value, bool):
        return text
    return value


def _resolved(text: str) -> object:
    if text in _NULL:
        return None
    word = text.lower()
    if text in {word, word.capitalize(), word.upper()} and word in _TRUE | _FALSE:
        return word in _TRUE
    return _number(text)


def _number(text: str) -> object:
    digits = text.replace("_", "")
    if _INT.fullmatch(text):
        return int(digits)
    if _OTHER_INT.fullmatch(text):
        return int(digits, 0)
    if _OLD_OCTAL.fullmatch(text):
        return int(digits, 8)
    if _FLOAT.fullmatch(text):
        number = float(text)
        return int(number) if number.is_integer() else number
    return text
