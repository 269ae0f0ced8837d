"""LoRA adapters of PEFT, merged into their base: a new checkpoint folder, written one tensor after the other.

W' = W + s B A with s = alpha / r, or alpha / sqrt(r) with `use_rslora` (Hu et al. 2021, "LoRA"; Kalajdzievski
2023, rsLoRA). A is `[r, in]`, B is `[out, r]`; GPT-2's Conv1D weights are `[in, out]`, and get the transpose.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.archive import ADAPTER_MARK, files_of
from export.checkpoint.config import Head
from export.checkpoint.config_reader import CONFIG_FILE
from export.checkpoint.names import EMBEDDING, LM_HEAD, head_of, is_buffer, plain_name, plain_names
from export.checkpoint.tensors import INDEX_FILE, SINGLE_FILE, TensorFile, TensorStore
from export.errors import CheckpointError
from export.reading import is_there, read_json_object
from runtime.contract import shown

ADAPTER_WEIGHTS = "adapter_model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "encoder.json")
_LOW_RANK = re.compile(r"(?P<module>.+)\.lora_(embedding_)?(?P<side>[AB])(\.default)?(\.weight)?")
_CONV1D = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
_PARTS = (".base_layer", ".modules_to_save.default", ".modules_to_save", ".default")
# Switches that change the formula, with the value that does not.
_UNSUPPORTED = (
    *("use_dora", "lora_bias", "layer_replication", "alpha_pattern", "use_qalora"),
    *("alora_invocation_tokens", "trainable_token_indices"),
)
# The head that a task's adapter brings along where the base has none.
_HEADS = {"SEQ_CLS": (Head.SEQUENCE, "score.weight"), "TOKEN_CLS": (Head.TOKEN, "classifier.weight")}
Floats = NDArray[np.float32]
Shape = tuple[int, ...]


@dataclass(slots=True)
class _Changes:
    """What an adapter does, by plain names: pairs of stored names A and B, and weights in place of others."""

    low_rank: dict[str, dict[str, str]] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        return {*self.low_rank, *self.replaced}


def merge_adapter(base: Path, adapter: Path, into: Path) -> None:
    """Write the checkpoint `base` with the LoRA of the folder `adapter` to the empty folder `into`.

    All weights are written as float32. Raises CheckpointError that names the file, the setting or the tensor.
    """
    settings = read_json_object(adapter / ADAPTER_MARK)
    scale = _Scale.read(settings)
    if not is_there(adapter / ADAPTER_WEIGHTS):
        why = "missing; pickles are not opened: save the adapter with peft's save_pretrained"
        raise CheckpointError(f"{ADAPTER_WEIGHTS}: {why}", field=ADAPTER_WEIGHTS)
    file = TensorFile(adapter / ADAPTER_WEIGHTS)
    added = TensorStore(dict.fromkeys(file.entries, file))
    merge = _Merge(
        TensorStore.open(base), added, _changes(added), scale, read_json_object(base / CONFIG_FILE)
    )
    merge.prepare(settings.get("task_type"))
    _write(into / SINGLE_FILE, merge)
    for folder in (base, adapter):
        # An adapter that was trained with tokens of its own has a whole tokenizer beside it.
        if folder is base or any(is_there(folder / name) for name in TOKENIZER_FILES):
            for path in files_of(folder)[0]:
                if path.suffix != ".safetensors" and path.name not in (INDEX_FILE, CONFIG_FILE, ADAPTER_MARK):
                    shutil.copyfile(path, into / path.name)
    (into / CONFIG_FILE).write_text(json.dumps(merge.config), "utf-8")


@dataclass(frozen=True, slots=True)
class _Scale:
    alpha: float
    by_root: bool  # rsLoRA

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> _Scale:
        kind = settings.get("peft_type")
        if kind != "LORA":
            raise _refused(f"peft_type: {shown(kind)}, but only LORA is merged: merge it with peft")
        for name in _UNSUPPORTED:
            if settings.get(name):
                raise _refused(f"{name}: {shown(settings[name])} is not merged here: merge it with peft")
        alpha = settings.get("lora_alpha", 8)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise _refused(f"lora_alpha: {shown(alpha)}: a number is needed")
        return cls(float(alpha), settings.get("use_rslora") is True)

    def of(self, rank: int) -> float:
        return self.alpha / (math.sqrt(rank) if self.by_root else rank)


def _changes(added: TensorStore) -> _Changes:
    found = _Changes()
    for stored in added:
        name = stored.removeprefix("base_model.model.")
        if (pair := _LOW_RANK.fullmatch(name)) is not None:
            key = f"{plain_name(pair['module'])}.weight"
            found.low_rank.setdefault(key, {})[pair["side"]] = stored
            continue
        for part in _PARTS:
            name = name.replace(part, "")
        if "lora_" in name:
            raise CheckpointError(f"tensor {stored}: this kind of LoRA is not merged here", field=stored)
        found.replaced[plain_name(name)] = stored
    for name, sides in found.low_rank.items():
        if sides.keys() != {"A", "B"}:
            raise CheckpointError(f"tensor {name}: LoRA needs A and B, found {', '.join(sides)}", field=name)
    return found


class _Merge:
    """The weights of the merged model by plain names; `prepare` must have been called."""

    def __init__(
        self, base: TensorStore, added: TensorStore, changes: _Changes, scale: _Scale, config: dict[str, Any]
    ) -> None:
        self.config = config
        self._base = base
        self._added = added
        self._changes = changes
        self._scale = scale
        self._stored = plain_names(list(base), base.metadata)
        for name in list(self._stored):
            if is_buffer(name):
                del self._stored[name]

    def prepare(self, task: Any) -> None:
        """Check that each change has its weight, and let config.json say what changes with them."""
        tied = self.config.get("tie_word_embeddings", True) is not False
        if tied and LM_HEAD in self._stored:
            self._stored.setdefault(EMBEDDING, self._stored[LM_HEAD])
        if tied:
            self._stored.pop(LM_HEAD, None)
        if tied and self._changes.names & {EMBEDDING, LM_HEAD} and EMBEDDING in self._stored:
            # As in PEFT, where each of the two keeps its own weights from here on.
            self._stored[LM_HEAD] = self._stored[EMBEDDING]
            self.config["tie_word_embeddings"] = False
        head = _HEADS.get(task) if isinstance(task, str) else None
        if head is not None and head[1] in self._changes.replaced and head[1] not in self._stored:
            self.config["architectures"] = [head[0].value]
            self._stored.pop(LM_HEAD, None)
            labels = self._added.shape(self._changes.replaced[head[1]])[0]
            if len(self.config.get("id2label") or {}) != labels:
                self.config["id2label"] = {str(number): f"LABEL_{number}" for number in range(labels)}
        for name in self._changes.low_rank:
            if name not in self._stored:
                raise CheckpointError(f"tensor {name}: in the adapter, but not in the base", field=name)
        if EMBEDDING in self._changes.replaced:
            self.config["vocab_size"] = self._added.shape(self._changes.replaced[EMBEDDING])[0]

    def shapes(self) -> dict[str, Shape]:
        """Of all weights, in the order in which they are written."""
        found = {name: self._base.shape(stored) for name, stored in self._stored.items()}
        return found | {name: self._added.shape(stored) for name, stored in self._changes.replaced.items()}

    def weight(self, name: str) -> Floats:
        if name in self._changes.replaced:
            return self._added.read(self._changes.replaced[name])
        weight = self._base.read(self._stored[name])
        pair = self._changes.low_rank.get(name)
        if pair is None:
            return weight
        low, high = (self._added.read(pair[side]).copy() for side in "AB")
        fits = low.ndim == high.ndim == 2 and low.shape[0] == high.shape[1]
        change = self._scale.of(max(1, low.shape[0])) * (high @ low) if fits else np.empty(0, np.float32)
        if _CONV1D.fullmatch(name) or name == EMBEDDING:
            change = change.T
        if change.shape != weight.shape:
            raise CheckpointError(
                f"tensor {name}: shape {weight.shape}, but the adapter has A {low.shape} and B {high.shape}",
                field=name,
            )
        return weight + change.astype(np.float32)


def _write(path: Path, merge: _Merge) -> None:
    """As safetensors: the length of the header in 8 bytes, the header, then the data without holes."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in merge.shapes().items():
        end = begin + 4 * math.prod(shape)
        entries[name if head_of(name) else f"transformer.{name}"] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [begin, end],
        }
        begin = end
    header = json.dumps(entries).encode()
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(header)))
        file.write(header)
        for name in merge.shapes():
            file.write(np.ascontiguousarray(merge.weight(name), np.dtype("<f4")).data)


def _refused(why: str) -> CheckpointError:
    return CheckpointError(f"{ADAPTER_MARK}: {why}", field=ADAPTER_MARK)
