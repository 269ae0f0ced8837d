"""llama.cpp through the low-level interface of llama-cpp-python: one batch of tokens over many sequences.

The checkpoint becomes a GGUF file here, with the names and layouts of llama.cpp's own converter
(convert_hf_to_gguf.py, class GPT2Model), and llama.cpp quantizes it. As in its server, one call takes prompts
or tokens of many sequences; all prompts go first, in order, then every call decodes all sequences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from bench.peers.protocol import Order, Prompts, Run, Stopwatch, serve

BATCH = 2048  # tokens of one call, as in llama.cpp's server
MICRO_BATCH = 512  # tokens computed at once, as there
FILE_TYPES = {"q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0}
FEATURE = re.compile(r"(AVX512\w*|OPENMP|REPACK) = 1")
TABLES = {
    "wte.weight": "token_embd.weight",
    "wpe.weight": "position_embd.weight",
    "ln_f.weight": "output_norm.weight",
    "ln_f.bias": "output_norm.bias",
}
LAYERS = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}

Token = tuple[int, int, int, bool]  # id, position, sequence, whether its logits are wanted


def gguf_name(name: str) -> str:
    if name in TABLES:
        return TABLES[name]
    _, layer, path = name.split(".", 2)
    stem, kind = path.rsplit(".", 1)
    return f"blk.{layer}.{LAYERS[stem]}.{kind}"


def write_gguf(checkpoint: Path, path: Path) -> None:
    """The checkpoint in float32, without a tokenizer: ids go in and come out."""
    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config.get("layer_norm_epsilon", 1e-5))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    for name, values in load_file(checkpoint / "model.safetensors").items():
        # GPT-2's Conv1D keeps [in, out]; llama.cpp wants [out, in] of everything but the tables.
        linear = values.ndim == 2 and name not in TABLES
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(values.T) if linear else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, target: Path, precision: str, threads: int) -> None:
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = int(FILE_TYPES[precision])
    parameters.nthread = threads
    failed = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), parameters)
    if failed:
        raise RuntimeError(f"llama.cpp could not quantize {source.name} to {precision}")


def convert(order: Order) -> Path:
    target = order.folder / f"{order.precision}.gguf"
    if not target.exists():
        full, part = order.folder / "fp32.gguf", order.folder / f"{order.precision}.part"
        write_gguf(order.source, full)
        quantize(full, part, order.precision, order.threads)
        part.rename(target)
        full.unlink()
    return target


class LlamaCpp:
    def __init__(self, order: Order) -> None:
        llama_cpp.llama_backend_init()
        path = convert(order)
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        self._context = llama_cpp.llama_init_from_model(self._model, context_parameters(order))
        if not self._context:
            raise RuntimeError(f"llama.cpp could not open {path.name}")
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self.versions = {"llama-cpp-python": version("llama-cpp-python"), "gguf": version("gguf")}
        features = ", ".join(FEATURE.findall(llama_cpp.llama_print_system_info().decode()))
        self.settings = f"n_batch {BATCH}, n_ubatch {MICRO_BATCH}, flash attention, one KV cache, {features}"

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
        watch = Stopwatch(len(prompts))
        last = [0] * len(prompts)

        def step(tokens: Iterator[Token]) -> None:
            for sequence, chosen in self._decode(tokens):
                last[sequence] = chosen
                watch.add(sequence, [chosen])

        step(prompt_tokens(prompts))
        for done in range(new_tokens - 1):
            step((last[row], len(prompts[row]) + done, row, True) for row in range(len(prompts)))
        return watch.stop()

    def _decode(self, tokens: Iterator[Token]) -> Iterator[tuple[int, int]]:
        """Run tokens, as many calls as they need; sequence and next token wherever logits are wanted."""
        while part := list(islice(tokens, BATCH)):
            for place, (token, position, sequence, wanted) in enumerate(part):
                self._batch.token[place] = token
                self._batch.pos[place] = position
                self._batch.n_seq_id[place] = 1
                self._batch.seq_id[place][0] = sequence
                self._batch.logits[place] = wanted
            self._batch.n_tokens = len(part)
            if code := llama_cpp.llama_decode(self._context, self._batch):
                raise RuntimeError(f"llama_decode answered {code}")
            wanted_by = [sequence for _, _, sequence, wanted in part if wanted]
            yield from zip(wanted_by, self._best(len(wanted_by)), strict=True)

    def _best(self, rows: int) -> list[int]:
        if not rows:
            return []
        logits: NDArray[np.float32] = np.ctypeslib.as_array(
            llama_cpp.llama_get_logits(self._context), (rows, self._vocab_size)
        )
        best: list[int] = logits.argmax(axis=1).tolist()
        return best


def context_parameters(order: Order) -> Any:
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = order.most_sequences * order.most_tokens
    parameters.n_seq_max = order.most_sequences
    parameters.n_batch = BATCH
    parameters.n_ubatch = MICRO_BATCH
    parameters.n_threads = parameters.n_threads_batch = order.threads
    parameters.kv_unified = True
    parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    return parameters


def prompt_tokens(prompts: Prompts) -> Iterator[Token]:
    for sequence, prompt in enumerate(prompts):
        for position, token in enumerate(prompt):
            yield token, position, sequence, position == len(prompt) - 1


if __name__ == "__main__":
    serve(LlamaCpp)
