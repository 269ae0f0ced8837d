"""How much memory there is, and how much a deployment takes. All in bytes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil

from kernels.library import SCALE_BYTES, missing
from runtime.contract import Kind, Manifest, Variant

CGROUP = Path("/sys/fs/cgroup")
PROCESS_BYTES = 150 * 1024**2  # a stub with ONNX Runtime loaded, measured without a model
WEIGHT_FACTOR = 2  # ONNX Runtime holds the file and its rearranged copy for a moment
# Of a GPU: CUDA, its libraries and what a step works in. An estimate, not measured.
GPU_PROCESS_BYTES = 1024**3
IN_EIGHT_BITS = (Variant.INT8, Variant.INT4)  # where our own operators run, so are keys and values


def available_memory() -> int:
    """What this machine, or this container, still has."""
    available = int(psutil.virtual_memory().available)
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        available = min(available, int(text) - int(used.read_text()))
    return available


def needed_memory(manifest: Manifest, variant: Variant, num_slots: int, max_kv_tokens: int = 0) -> int:
    """What a deployment takes at most: process, weights, and for a language model the whole KV cache."""
    need = PROCESS_BYTES + WEIGHT_FACTOR * manifest.variants[variant].size
    if manifest.kind is Kind.LM:
        shape = manifest.architecture
        per_token = 2 * shape.num_layers * shape.num_heads * _cached_bytes(shape.head_size, variant)
        tokens = num_slots * shape.context_length
        need += min(tokens, max_kv_tokens or tokens) * per_token
    return need


def available_gpu_memory() -> int | None:
    """What the first GPU has left, by `nvidia-smi`, which comes with its driver; None where it cannot say."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    command = ["nvidia-smi", f"--id={first}", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        return int(answer.strip()) * 1024**2
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def needed_gpu_memory(manifest: Manifest, variant: Variant, num_slots: int) -> int:
    """What a deployment takes of a GPU: weights once, and the whole cache, whatever its budget of tokens."""
    need = GPU_PROCESS_BYTES + manifest.variants[variant].size
    if manifest.kind is Kind.LM:
        shape = manifest.architecture
        per_token = 2 * shape.num_layers * shape.num_heads * _cached_bytes(shape.head_size, variant)
        need += num_slots * shape.context_length * per_token
    return need


def _cached_bytes(head_size: int, variant: Variant) -> int:
    """Of one head's key or value."""
    if variant in IN_EIGHT_BITS and missing() is None:
        return head_size + SCALE_BYTES
    return head_size * (2 if variant is Variant.FP16 else 4)
