"""The chat template of a language model, and the special tokens that it names.

transformers keeps the template in tokenizer_config.json or, since 4.52, in chat_template.jinja, which has
precedence. It is not run here: the façade renders it in a process of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export.errors import CheckpointError
from export.reading import is_there, read_json_object, read_text
from runtime.manifest import CHAT_TEMPLATE, MAX_CHAT_TEMPLATE

TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
MAX_TOKEN = 256  # characters
DEFAULT = "default"  # name of the template for conversations, where there are several


def read_chat(folder: Path) -> dict[str, str]:
    """`Manifest.chat` of a checkpoint folder; empty where it has no template. Raises CheckpointError."""
    path = folder / TOKENIZER_CONFIG_FILE
    data = read_json_object(path) if is_there(path) else {}
    file, template = TOKENIZER_CONFIG_FILE, _template(data.get(CHAT_TEMPLATE))
    if is_there(folder / TEMPLATE_FILE):
        file, template = TEMPLATE_FILE, read_text(folder / TEMPLATE_FILE)
    if not template:
        return {}
    if len(template) > MAX_CHAT_TEMPLATE:
        limit = f"{len(template)} characters, but at most {MAX_CHAT_TEMPLATE} are read"
        raise CheckpointError(f"{file}: {CHAT_TEMPLATE}: {limit}", field=file)
    found = {name: _content(data.get(name)) for name in SPECIAL_TOKENS}
    return {CHAT_TEMPLATE: template, **{name: text for name, text in found.items() if text}}


def _template(value: Any) -> str:
    """A text, or the default one of a list of named texts."""
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get(DEFAULT)
    return value if isinstance(value, str) else ""


def _content(value: Any) -> str:
    """A special token: a text, or an object with its text."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and len(text) <= MAX_TOKEN else ""
