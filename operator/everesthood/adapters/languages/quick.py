"""A quick test of a value against a schema, prepared once and used for every run.

It is sure of its yes. Whoever hears no asks `schemas.check`, which finds the words, counts its steps and
is the one to refuse.
"""

from collections.abc import Callable, Mapping

from jsonschema_rs import Draft202012Validator, RegexOptions


def prepared(schema: Mapping[str, object]) -> Callable[[object], bool]:
    """Return the test; of a schema that cannot be used it says yes to nothing."""
    try:
        # Regular expressions of linear time, as in `schemas`; references lead nowhere but into the schema.
        validator = Draft202012Validator(dict(schema), pattern_options=RegexOptions(), offline=True)
    except ValueError:
        return lambda _: False
    return validator.is_valid
