"""Writing a checkpoint folder: config.json, model.safetensors in fp16, tokenizer.json and more."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import GPT2Config

from train.tokenizer import END_OF_TEXT

MAX_BYTES_OF_ALL_MODELS = 28_000_000


def half_tensors(model: torch.nn.Module, tied: bool = True) -> dict[str, torch.Tensor]:
    """The state as contiguous fp16 tensors, without buffers, and without a language model's tied head."""
    return {
        name: tensor.detach().to("cpu", torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight") and not name.endswith((".attn.bias", ".attn.masked_bias"))
    }


def save_checkpoint(
    out: Path, model: torch.nn.Module, config: GPT2Config, tokenizer: Tokenizer, **extra: object
) -> None:
    """Write the folder; `extra` keys are added to config.json (they override what transformers writes)."""
    out.mkdir(parents=True, exist_ok=True)
    written = {**config.to_diff_dict(), **extra}
    written["torch_dtype"] = "float16"
    if config.activation_function == "gelu_pytorch_tanh":
        # The same function, under the name that every release of transformers knows.
        written["activation_function"] = "gelu_new"
    written.pop("dtype", None)
    text = json.dumps(written, indent=2, sort_keys=True, ensure_ascii=False)
    (out / "config.json").write_text(text + "\n", "utf-8")
    save_file(
        half_tensors(model, config.tie_word_embeddings), out / "model.safetensors", metadata={"format": "pt"}
    )
    # safetensors makes the file readable only by its owner; a server may run under another account.
    (out / "model.safetensors").chmod(0o644)
    save_tokenizer(out, tokenizer, config)


def save_tokenizer(out: Path, tokenizer: Tokenizer, config: GPT2Config) -> None:
    """Write tokenizer.json, and tokenizer_config.json, from which transformers reads the special tokens."""
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    end = END_OF_TEXT if config.eos_token_id is None else tokenizer.id_to_token(config.eos_token_id)
    padding = end if config.pad_token_id is None else tokenizer.id_to_token(config.pad_token_id)
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "pad_token": padding,
        # Without it transformers would switch tokenizer.json's own setting off.
        "add_prefix_space": getattr(tokenizer.pre_tokenizer, "add_prefix_space", False),
        "model_max_length": config.n_positions,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2) + "\n", "utf-8")


def save_sampling(out: Path, config: GPT2Config, **sampling: float) -> None:
    """Write generation_config.json: the parameters with which texts are sampled where a request sets none."""
    ends = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id")}
    text = json.dumps({**ends, "do_sample": True, **sampling}, indent=2)
    (out / "generation_config.json").write_text(text + "\n", "utf-8")


def folder_bytes(folder: Path) -> int:
    """Size of all files under `folder` in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
