"""`.env.example` from the settings, so that every key is documented once."""

from dataclasses import Field, fields

from everesthood.settings import Settings, variable_of


def files() -> dict[str, str]:
    """Return the generated file."""
    head = "# Every setting of every process, with its default. Generated from everesthood.settings.\n"
    return {".env.example": head + "\n".join(map(_entry, fields(Settings))) + "\n"}


def _entry(setting: Field[object]) -> str:
    shown = str(setting.default).lower() if isinstance(setting.default, bool) else setting.default
    return f"\n# {setting.metadata['description']}\n# {variable_of(setting.name)}={shown}"
