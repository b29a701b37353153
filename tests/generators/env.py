"""`.env.example` from the settings, so that every key is documented once."""

from pydantic import SecretStr

from everesthood.settings import Settings


def files() -> dict[str, str]:
    """Return the generated file."""
    head = "# Every setting of every process, with its default. Generated from everesthood.settings.\n"
    lines = [_entry(name) for name in Settings.model_fields]
    return {".env.example": head + "\n".join(lines) + "\n"}


def _entry(name: str) -> str:
    field = Settings.model_fields[name]
    default = field.default
    value = default.get_secret_value() if isinstance(default, SecretStr) else default
    shown = str(value).lower() if isinstance(value, bool) else value
    return f"\n# {field.description}\n# EVERESTHOOD_{name.upper()}={shown}"
