"""Whether a deployment may begin: the version, the replicas, and the memory of the servers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.back.cluster import admission, resources
from api.back.cluster.driver import Capabilities
from api.back.cluster.quality_gate import QualityGate
from api.back.cluster.resources import available_gpu_memory, available_memory, needed_memory
from api.errors import Conflict, InvalidInput
from runtime.config import EngineSettings
from runtime.contract import Device, Kind, Variant
from tests.api.back.cluster.deployments import MIB, manifest, version


def test_a_version_that_is_not_ready_is_refused() -> None:
    with pytest.raises(Conflict, match="uploaded, not ready"):
        admission.plan(version(), "auto", 1, 100, gate=QualityGate())


@pytest.mark.parametrize("kernels", [True, False])
def test_the_need_counts_weights_twice_and_the_cache_with_a_quarter_for_rows_that_are_saved(
    kernels: bool,
) -> None:
    values = 2 * 12 * 12 * 1024  # of a slot: heads' keys and values
    slot = values * (64 + 4 if kernels else 64 * 4)
    classifier = needed_memory(manifest(Kind.CLASSIFIER), Variant.INT8, 32, has_kernels=kernels)
    assert classifier == 350 * MIB
    assert needed_memory(manifest(), Variant.INT8, 32, has_kernels=kernels) == classifier + 32 * slot * 5 // 4
    bounded = needed_memory(manifest(), Variant.INT8, 32, 4 * 1024, has_kernels=kernels)
    assert bounded == classifier + 4 * slot * 5 // 4
    assert needed_memory(manifest(), Variant.INT8, 2, 4 * 1024, has_kernels=kernels) < bounded
    half = needed_memory(manifest(variants=(Variant.FP16,)), Variant.FP16, 32, has_kernels=kernels)
    assert half == classifier + 32 * values * 64 * 2 * 5 // 4
    assert available_memory() > 0


def test_the_heads_of_each_layer_count() -> None:
    whole = manifest()
    half = replace(whole, architecture=replace(whole.architecture, layer_heads=(12, 6) * 3 + (3,) * 6))
    weights = needed_memory(manifest(Kind.CLASSIFIER), Variant.INT8, 8, has_kernels=True)
    caches = [needed_memory(each, Variant.INT8, 8, has_kernels=True) - weights for each in (whole, half)]
    assert caches[1] * 2 == caches[0]


def settings(num_slots: int, max_kv_tokens: int = 0, **others: Any) -> EngineSettings:
    return EngineSettings(num_slots=num_slots, max_kv_tokens=max_kv_tokens, **others)


def with_nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the driver's; `script` is its shell."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_a_gpus_memory_is_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_nvidia_smi(tmp_path, '[ "$1" = --id=3 ] && echo 2048', monkeypatch)
    assert available_gpu_memory("3") == 2048 * MIB


@pytest.mark.parametrize("script", ["exit 9", "echo no devices were found"])
def test_a_gpu_that_cannot_be_asked_is_left_to_say_it_is_full(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_nvidia_smi(tmp_path, script, monkeypatch)
    assert available_gpu_memory("0") is None
    half = manifest(variants=(Variant.FP16,))
    unknown = Capabilities("here", Device.CUDA, available_gpu_memory("0"), has_kernels=False)
    admission.check_memory(half, Variant.FP16, settings(10_000, 0), [unknown])


def test_a_gpu_needs_room_for_the_whole_cache() -> None:
    half, slot = manifest(variants=(Variant.FP16,)), 2 * 12 * 12 * 1024 * 64 * 2
    needed = resources.GPU_PROCESS_BYTES + 100 * MIB + 32 * slot
    gpu = Capabilities("here", Device.CUDA, needed, has_kernels=True)
    admission.check_memory(half, Variant.FP16, settings(32, 1024), [gpu])
    with pytest.raises(
        Conflict, match=r"MiB of GPU memory are needed for fp16 with 33 slots, 2276 MiB are free"
    ):
        admission.check_memory(half, Variant.FP16, settings(33, 1024), [gpu])


def test_a_plan_of_tensorrt_has_the_embedding_twice() -> None:
    half = manifest(variants=(Variant.FP16,))
    engine = settings(32, device=Device.CUDA)
    needed = resources.needed_gpu_memory(half, Variant.FP16, 32)
    more = resources.PLAN_BYTES + 50257 * 768 * 2
    gpus = [Capabilities("here", Device.CUDA, needed + more - short, has_kernels=False) for short in (0, 1)]
    admission.check_memory(half, Variant.FP16, engine, gpus[1:])
    planned = replace(engine, plans="/plans")
    admission.check_memory(half, Variant.FP16, planned, gpus[:1])
    with pytest.raises(Conflict, match="MiB of GPU memory are needed for fp16"):
        admission.check_memory(half, Variant.FP16, planned, gpus[1:])
    classifier = manifest(Kind.CLASSIFIER, (Variant.FP16,))
    without, with_plans = (
        admission.memory_on(gpus[0], classifier, Variant.FP16, e) for e in (engine, planned)
    )
    assert without == with_plans


def test_replicas_on_one_machine_share_its_memory() -> None:
    need = needed_memory(manifest(), Variant.INT8, 32, has_kernels=True)
    enough, scarce = (Capabilities("here", Device.CPU, free, True) for free in (2 * need, 2 * need - 1))
    other = Capabilities("there", Device.CPU, need, has_kernels=True)
    admission.check_memory(manifest(), Variant.INT8, settings(32, 0), [enough, enough, other])
    admission.check_memory(manifest(), Variant.INT8, settings(32, 0), [scarce, other])
    with pytest.raises(Conflict, match=f"{2 * need // MIB} MiB of memory are needed for 2 replicas of int8"):
        admission.check_memory(manifest(), Variant.INT8, settings(32, 0), [scarce, scarce])


@pytest.mark.parametrize(
    ("replicas", "servers", "text"),
    [
        (2, 1, "replicas: 2, but this cluster has 1 server: 1 is possible"),
        (3, 2, "replicas: 3, but this cluster has 2 servers: 1 to 2 are possible"),
        (0, 2, "replicas: 0, but this cluster has 2 servers: 1 to 2 are possible"),
    ],
)
def test_more_replicas_than_servers_are_refused(replicas: int, servers: int, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        admission.check_replicas(replicas, servers)
    admission.check_replicas(servers, servers)
