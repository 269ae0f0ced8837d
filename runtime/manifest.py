"""The manifest of an artifact: what it is, its files, its golden answers and its quality.

Standard library only: exporter, Model Store and engine read it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from runtime.contract import Kind, Variant, shown, without_padding

MANIFEST_SCHEMA_VERSION = 2
MANIFEST_FILE = "manifest.json"
CHAT_TEMPLATE = "chat_template"  # in Manifest.chat
MAX_CHAT_TEMPLATE = 65_536  # characters


class ManifestError(ValueError):
    """A manifest of another form than this version writes; the message names the field."""


@dataclass(frozen=True, slots=True)
class Architecture:
    num_layers: int
    num_heads: int
    head_size: int
    hidden_size: int
    vocab_size: int
    context_length: int
    eos_token_id: int | None  # None: no token ends a text
    pad_token_id: int | None  # None: a classifier answers at the last token, whichever it is
    layer_heads: tuple[int, ...] = ()  # heads of each layer of a pruned model; empty: num_heads in all
    more_eos_token_ids: tuple[int, ...] = ()  # that end a text, beside eos_token_id

    @property
    def ends(self) -> tuple[int, ...]:
        """Every token that ends a text; the first also begins one."""
        return () if self.eos_token_id is None else (self.eos_token_id, *self.more_eos_token_ids)

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of attention heads of each layer."""
        return self.layer_heads or (self.num_heads,) * self.num_layers


@dataclass(frozen=True, slots=True)
class FileEntry:
    path: str  # relative to the artifact, forward slashes
    size: int  # bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class GoldenPrompt:
    """An input whose answer is known. After a load it is asked again, to check the build."""

    text: str
    text_pair: str | None = None


@dataclass(frozen=True, slots=True)
class GoldenAnswer:
    """What one variant answered to a golden prompt when it was exported."""

    token_ids: tuple[int, ...] = ()  # lm: the greedy continuation
    logprobs: tuple[float, ...] = ()  # lm: of these tokens
    scores: tuple[float, ...] = ()  # heads: logits of the labels
    slot_scores: tuple[float, ...] = ()  # nlu: logits of the slot labels at the last token


@dataclass(frozen=True, slots=True)
class VariantEntry:
    files: tuple[FileEntry, ...]  # the graph first
    golden: tuple[GoldenAnswer, ...]  # one for each golden prompt of the manifest
    load_seconds: float  # on the machine that exported it, until the golden prompts were answered
    quality: dict[str, float] | None = None  # the quality card: measured differences from fp32

    @property
    def graph(self) -> FileEntry:
        return self.files[0]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def check_golden(self, where: str, kind: Kind, prompts: int) -> None:
        """Raise ManifestError unless there is an answer of this kind to each prompt."""
        if not self.files:
            raise ManifestError(f"{where}.files: a graph is needed")
        if len(self.golden) != prompts:
            raise ManifestError(f"{where}.golden: {len(self.golden)} answers to {prompts} golden prompts")
        for index, answer in enumerate(self.golden):
            given = answer.token_ids if kind is Kind.LM else answer.scores + answer.slot_scores
            if not given:
                raise ManifestError(f"{where}.golden[{index}]: no answer of kind {kind.value}")
            if len(answer.token_ids) != len(answer.logprobs):
                counts = f"{len(answer.token_ids)} tokens, {len(answer.logprobs)} logprobs"
                raise ManifestError(f"{where}.golden[{index}]: {counts}")


@dataclass(frozen=True, slots=True)
class Manifest:
    name: str
    kind: Kind
    architecture: Architecture
    tokenizer: FileEntry
    variants: dict[Variant, VariantEntry]
    labels: tuple[str, ...] = ()  # classes of a classifier, intents of an nlu model
    slot_labels: tuple[str, ...] = ()
    nlu_echo: bool = False  # the model reads ids + [eos] + ids and tags the second copy
    slot_transitions: bool = False  # the graphs give scores of each tag after each other one
    problem_type: str = "single_label_classification"  # as transformers names it
    sampling: dict[str, float] = field(default_factory=dict)  # lm: for requests that do not set them
    chat: dict[str, str] = field(default_factory=dict)  # CHAT_TEMPLATE, and the tokens that it names, as text
    golden: tuple[GoldenPrompt, ...] = ()
    provenance: dict[str, str] = field(default_factory=dict)
    schema_version: int = MANIFEST_SCHEMA_VERSION

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file of the artifact but the manifest itself."""
        return (self.tokenizer, *(file for entry in self.variants.values() for file in entry.files))

    def digest(self, variant: Variant) -> str:
        """`sha256:` and a digest over what decides the answers of a variant. A new export has the same."""
        files = [(file.path, file.sha256) for file in self.variants[variant].files]
        decides = (self.kind, self.architecture, self.tokenizer.sha256, files)
        content = json.dumps(_plain(decides), sort_keys=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"

    def to_json(self) -> str:
        return json.dumps(_plain(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Parse and check; raises ManifestError naming the field."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{MANIFEST_FILE}: not JSON ({error})") from None
        manifest = _read(cls, data, "manifest")
        if manifest.schema_version != MANIFEST_SCHEMA_VERSION:
            found = manifest.schema_version
            raise ManifestError(
                f"manifest.schema_version: {found}, but this build reads {MANIFEST_SCHEMA_VERSION}"
            )
        for variant, entry in manifest.variants.items():
            entry.check_golden(f"manifest.variants.{variant.value}", manifest.kind, len(manifest.golden))
        return manifest

    @classmethod
    def load(cls, artifact: Path) -> Manifest:
        return cls.from_json((artifact / MANIFEST_FILE).read_bytes())


def head_row(ids: list[int], kind: Kind, architecture: Architecture, nlu_echo: bool) -> list[int]:
    """The row that a head reads for a text of the tokens `ids`.

    A classifier reads up to the last token that is not padding; its `ids` have the special tokens of the
    tokenizer's template. An nlu model reads the text's own tokens: once, or with `nlu_echo` twice, with an
    end-of-text token between the copies.
    """
    if kind is Kind.CLASSIFIER:
        return without_padding(ids, architecture.pad_token_id)
    if nlu_echo and architecture.eos_token_id is not None:
        return [*ids, architecture.eos_token_id, *ids]
    return ids


def _plain(value: Any) -> Any:
    """The value with its dataclasses and enums replaced by what json can write."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


Record = TypeVar("Record")


def _read(record: type[Record], data: Any, where: str) -> Record:
    """Build the dataclass `record` from parsed JSON; raises ManifestError that names the wrong field."""
    if not isinstance(data, dict):
        raise ManifestError(f"{where}: an object is needed, not {type(data).__name__}")
    hints = typing.get_type_hints(record)
    known = {item.name: item for item in dataclasses.fields(record)}  # type: ignore[arg-type]
    for name in data:
        if name not in known:
            raise ManifestError(f"{where}.{shown(name)[1:-1]}: unknown field")
    values = {}
    for name, item in known.items():
        if name in data:
            values[name] = _value(hints[name], data[name], f"{where}.{name}")
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ManifestError(f"{where}.{name}: missing")
    return record(**values)


def _value(hint: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        return None if data is None else _value(arguments[0], data, where)
    if origin is tuple:
        if not isinstance(data, list):
            raise ManifestError(f"{where}: a list is needed, not {type(data).__name__}")
        return tuple(_value(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(data))
    if origin is dict:
        if not isinstance(data, dict):
            raise ManifestError(f"{where}: an object is needed, not {type(data).__name__}")
        key_hint, item_hint = arguments
        return {
            _value(key_hint, key, where): _value(item_hint, item, f"{where}.{key}")
            for key, item in data.items()
        }
    if dataclasses.is_dataclass(hint):
        return _read(typing.cast("type[Any]", hint), data, where)
    if issubclass(hint, Enum):
        try:
            return hint(data)
        except ValueError:
            choices = ", ".join(str(member.value) for member in hint)
            raise ManifestError(f"{where}: {shown(data)} is not one of {choices}") from None
    return _scalar(hint, data, where)


def _scalar(hint: type, data: Any, where: str) -> Any:
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        try:
            return float(data)
        except OverflowError:
            raise ManifestError(f"{where}: a number beyond 1e308") from None
    if type(data) is not hint:  # `bool` is an `int`, so isinstance would let true through as 1
        raise ManifestError(f"{where}: {hint.__name__} is needed, not {type(data).__name__}")
    return data
