"""Names of tensors as programs store them, and the plain names of GPT-2's weights that they stand for."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from export.errors import CheckpointError

EMBEDDING, LM_HEAD = "wte.weight", "lm_head.weight"
# Parts that torch.compile, FSDP, activation checkpointing, DataParallel, Lightning and TRL put into names.
_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"))
_FIRST_WRAPPERS = ("module", "model", "pretrained_model")
_BODY = "transformer"
# Parts of names in a model with adapters that are not merged, as PEFT stores it.
_UNMERGED = re.compile(
    r"(^|\.)(base_layer|base_model|lora_\w+|ia3_\w+|original_module|modules_to_save)(\.|$)"
)
# Attention masks that old checkpoints store as buffers.
_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
# Heads of other tasks: of transformers, of TRL (v_head), and of this project.
HEADS = (
    "lm_head",
    "multiple_choice_head",
    "score",
    "classifier",
    "qa_outputs",
    "v_head",
    "intent_head",
    "slot_head",
)


def plain_names(stored: Collection[str], tied: Mapping[str, str]) -> dict[str, str]:
    """The stored name of each plain one, `h.0.ln_1.weight` of `module.transformer.h.0.ln_1.weight`.

    `tied` maps names that a writer left out to those of the same weights that it stored. Raises
    CheckpointError for a model whose adapters are not merged, and where two names mean one weight.
    """
    found: dict[str, str] = {}
    for name in stored:
        if _UNMERGED.search(name):
            raise CheckpointError(
                f"tensor {name}: adapters that are not merged into their model: merge them (peft's"
                " merge_and_unload) and save that, or export the adapter's own folder with --adapter",
                field=name,
            )
        plain = plain_name(name)
        if plain in found:
            raise CheckpointError(
                f"tensor {name}: stored with and without a prefix: {found[plain]} is the same weight",
                field=name,
            )
        found[plain] = name
    for left_out, kept in tied.items():
        if kept in stored:
            found.setdefault(plain_name(left_out), kept)
    return found


def plain_name(name: str) -> str:
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] in _FIRST_WRAPPERS:
        parts = parts[1:]
    return ".".join(parts[1:] if parts[0] == _BODY else parts)


def is_buffer(name: str) -> bool:
    return _BUFFER.fullmatch(name) is not None


def head_of(name: str) -> str | None:
    """The head that a plain name belongs to; None for a weight of the body, and for any other name."""
    first = name.partition(".")[0]
    return first if first in HEADS else None
