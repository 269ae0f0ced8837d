"""The settings as `LMAAS_*` variables: read and checked at once, and shown."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ByteSize, ValidationError

from api.config import BUNDLED_MODELS, PREFIX, Settings


class SettingsError(Exception):
    """A setting that stops the start; `str(error)` is one line for the operator."""


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read `LMAAS_*` from `environ`; an empty value counts as not set. Raises SettingsError."""
    values: dict[str, Any] = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX):
            continue
        field = name.removeprefix(PREFIX).lower()
        if field not in Settings.model_fields:
            raise SettingsError(f"{name}: no such setting{_suggest(field)}")
        if value != "":
            values[field] = value
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError("; ".join(_line(item) for item in error.errors())) from None


def _suggest(field: str) -> str:
    close = difflib.get_close_matches(field, Settings.model_fields, n=1)
    return f"; did you mean {PREFIX}{close[0].upper()}?" if close else "; `lmaas config` lists the settings"


def _line(item: Any) -> str:
    name = PREFIX + str(item["loc"][0]).upper()
    shown = "" if name == f"{PREFIX}DATABASE_URL" else f" (value {item['input']!r})"
    return f"{name}: {item['msg'].removeprefix('Value error, ')}{shown}"


def settings_rows(settings: Settings) -> list[tuple[str, str, str, str]]:
    """Variable, value now, default and description of each setting, for `lmaas config`."""
    return [
        (PREFIX + name.upper(), _shown(getattr(settings, name)), _default(name), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def settings_markdown() -> str:
    """The settings as a Markdown table, for docs/settings.md."""
    lines = ["| variable | default | what |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = f"`{_default(name)}`" if _default(name) else ""
        lines.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def _default(name: str) -> str:
    value = Settings.model_fields[name].default
    return "models" if value == BUNDLED_MODELS else _shown(value)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, ByteSize):
        return value.human_readable().replace(".0", "")
    return f"{value:g}" if isinstance(value, float) else str(value)
