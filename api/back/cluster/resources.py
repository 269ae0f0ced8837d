"""How much memory this machine has, and how much one replica of a deployment needs. All in bytes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil

from kernels.library import SCALE_BYTES
from runtime.contract import Kind, Variant
from runtime.manifest import Manifest

CGROUP = Path("/sys/fs/cgroup")
PROCESS_BYTES = 150 * 1024**2  # a stub with ONNX Runtime loaded, measured without a model
WEIGHT_FACTOR = 2  # ONNX Runtime holds the file and its rearranged copy for a moment
SAVED_SHARE = 0.25  # of the KV cache: rows of preempted sequences, beside it (runtime/kv_cache.py)
# Of a GPU: CUDA, its libraries and what a step works in. An estimate, not measured.
GPU_PROCESS_BYTES = 1024**3
PLAN_BYTES = 32 * 1024**2  # of a plan of TensorRT beside its weights: TensorRT-RTX 1.7.1 wrote 18 MB
IN_EIGHT_BITS = (Variant.INT8, Variant.INT4)


def available_memory() -> int:
    """What this machine, or this container, still has."""
    available = int(psutil.virtual_memory().available)
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        available = min(available, int(text) - int(used.read_text()))
    return available


def needed_memory(
    manifest: Manifest, variant: Variant, num_slots: int, max_kv_tokens: int = 0, *, has_kernels: bool
) -> int:
    """The most that a replica needs: process, weights, and for a language model the whole KV cache."""
    need = PROCESS_BYTES + WEIGHT_FACTOR * manifest.variants[variant].size
    if manifest.kind is Kind.LM:
        tokens = num_slots * manifest.architecture.context_length
        rows = min(tokens, max_kv_tokens or tokens) * (1 + SAVED_SHARE)
        need += int(rows * _bytes_per_token(manifest, variant, has_kernels))
    return need


def gpu_of(number: int) -> str:
    """The GPU of server `number`, from 0, as CUDA and `nvidia-smi` name it: each server has one alone.

    Where CUDA_VISIBLE_DEVICES chooses GPUs, those are given out; `preflight` checks that there are enough.
    """
    chosen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return chosen[number % len(chosen)] if chosen else str(number)


def available_gpu_memory(gpu: str) -> int | None:
    """What it has left, by `nvidia-smi`, which comes with the driver; None where that cannot say."""
    command = ["nvidia-smi", f"--id={gpu}", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        return int(answer.strip()) * 1024**2
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def needed_gpu_memory(
    manifest: Manifest, variant: Variant, num_slots: int, *, has_plans: bool = False
) -> int:
    """What a replica needs of a GPU: weights once, and the whole cache, whatever its limit of tokens.

    Both are allocated by themselves, exactly. ONNX Runtime's arena, which doubles, holds what a step needs.
    With plans of TensorRT (`has_plans`) the weights are those of a plan, which has the embedding twice: as
    a table, and transposed. ONNX Runtime, in its place, needs less.
    """
    need = GPU_PROCESS_BYTES + manifest.variants[variant].size
    if manifest.kind is Kind.LM and has_plans:
        shape = manifest.architecture
        need += PLAN_BYTES + 2 * shape.vocab_size * shape.hidden_size
    if manifest.kind is Kind.LM:
        # The operators of `kernels` run on CPUs only.
        per_token = _bytes_per_token(manifest, variant, has_kernels=False)
        need += num_slots * manifest.architecture.context_length * per_token
    return need


def _bytes_per_token(manifest: Manifest, variant: Variant, has_kernels: bool) -> int:
    """Of the KV cache. The operators of `kernels` keep keys and values of IN_EIGHT_BITS with a scale each."""
    shape = manifest.architecture
    if variant in IN_EIGHT_BITS and has_kernels:
        per_head = shape.head_size + SCALE_BYTES
    else:
        per_head = shape.head_size * (2 if variant is Variant.FP16 else 4)
    return 2 * sum(shape.heads) * per_head
