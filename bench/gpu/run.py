"""On a machine with a GPU: whether the CUDA engine is right, and its speed beside transformers.

It writes a checkpoint of GPT-2's shape with random weights, exports it, and checks the CUDA engine against
the fp32 graph on the CPU. Then the engine, transformers and compiled transformers answer the same prompts in
turn. It needs `onnxruntime-gpu` (the extra `gpu`), transformers, and a torch that sees the GPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import report
from bench.gpu.checks import check_engine
from bench.gpu.speed import COLUMNS, Case, Subject, Traffic, measure
from bench.peers.material import PromptSource, as_texts, write_material
from perf.counts import parse_counts
from perf.errors import PerfError
from perf.report import markdown_table
from runtime.contract import ENGINE_FILE, TOKENIZER_FILE, Device, Variant
from runtime.cuda.accelerator import Accelerator, AcceleratorError
from runtime.engine import Engine
from runtime.load import load_engine
from runtime.manifest import Manifest

FOLDER = Path(__file__).resolve().parents[2] / "var" / "perf-gpu"
CHECKED_LENGTHS = (1, 2, 7, 30, 32, 33, 129, 300, 512, 513, 700)  # tokens; a chunk of a prompt is 512
CHECKED_SLOTS = 16


def gpu(
    batches: Annotated[str, typer.Option(help="Sequences at once.")] = "1,4,16,64",
    prompts: Annotated[str, typer.Option(help="Tokens of a prompt.")] = "32,512",
    new_tokens: Annotated[int, typer.Option(min=2)] = 128,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    only_checks: Annotated[bool, typer.Option("--only-checks", help="Do not measure.")] = False,
) -> None:
    sizes, lengths = parse_counts("--batches", batches), parse_counts("--prompts", prompts)
    require_gpu()
    checkpoint, artifact = FOLDER / "checkpoint", FOLDER / "artifact"
    say("writing a checkpoint of GPT-2's shape and exporting it")
    write_material(checkpoint)
    exporting = [sys.executable, "-m", "export", str(checkpoint), str(artifact), "--overwrite"]
    subprocess.run([*exporting, "--name", "gpt2", "--variants", "fp32,fp16"], check=True)
    source = PromptSource(artifact / TOKENIZER_FILE)
    held, text, data = _check(artifact, source)
    if not only_checks:
        cases = [Case(batch, length) for length in lengths for batch in sizes]
        speed_text, speed_data = _measure(cases, rounds, new_tokens, artifact, checkpoint, source)
        text, data = f"{text}\n{speed_text}", data | speed_data
    report.write("gpu", text, data)
    if not held:
        raise PerfError("a check failed")


def require_gpu() -> None:
    """Raises PerfError, in one line."""
    try:
        Accelerator().check()
    except AcceleratorError as error:
        raise PerfError(f"no GPU to measure on: {error}") from None
    try:
        import torch
        import transformers  # noqa: F401 - what is measured beside ours
    except ImportError as error:
        raise PerfError(
            f"no {error.name} to measure beside: install torch, built for CUDA, and transformers"
        ) from None
    if not torch.cuda.is_available():
        raise PerfError("no GPU to measure on: torch sees none, or was built without CUDA")


def _check(artifact: Path, source: PromptSource) -> tuple[bool, str, dict[str, Any]]:
    say("checking the CUDA engine against the fp32 graph on the CPU")
    texts = [as_texts(artifact / TOKENIZER_FILE, source.take(1, length))[0] for length in CHECKED_LENGTHS]
    with (
        opened(artifact, Device.CUDA, Variant.FP16, CHECKED_SLOTS) as cuda,
        opened(artifact, Device.CPU, Variant.FP32, CHECKED_SLOTS) as cpu,
    ):
        checks = check_engine(cuda, cpu, texts)
    rows = [(check.name, "held" if check.held else "NOT HELD", check.found) for check in checks]
    text = markdown_table(("check", "", "found"), rows)
    held = all(check.held for check in checks)
    return held, text, {"checks": [asdict(check) for check in checks]}


def _measure(
    cases: list[Case],
    rounds: int,
    new_tokens: int,
    artifact: Path,
    checkpoint: Path,
    source: PromptSource,
) -> tuple[str, dict[str, Any]]:
    import torch

    from bench.gpu.subjects import Ours, Transformers, measure_bandwidth

    traffic, device = _traffic(artifact), torch.cuda.get_device_name()
    bandwidth = measure_bandwidth()
    with opened(artifact, Device.CUDA, Variant.FP16, max(case.batch for case in cases)) as engine:
        subjects: list[Subject] = [
            Ours(engine, artifact),
            Transformers(checkpoint, compiled=False),
            Transformers(checkpoint, compiled=True),
        ]
        found = measure(subjects, cases, source, rounds, new_tokens, say)
    bandwidth = max(bandwidth, measure_bandwidth())
    rows = [
        measured.row(name, case, traffic, bandwidth, new_tokens)
        for case, subjects_found in found.items()
        for name, measured in subjects_found.items()
    ]
    head = (
        f"{device}, {bandwidth / 1e9:.0f} GB/s (a copy within it), torch {torch.__version__}, fp16,"
        f" GPT-2's 124M shape with random weights, {new_tokens} new tokens, {rounds} rounds in turn,"
        f" median (least to most):"
    )
    figures = {
        str(case): {name: asdict(measured) for name, measured in subjects_found.items()}
        for case, subjects_found in found.items()
    }
    data = {"device": device, "bandwidth": bandwidth, "traffic": asdict(traffic), "figures": figures}
    return f"{head}\n\n{markdown_table(COLUMNS, rows)}", data


def _traffic(artifact: Path) -> Traffic:
    """Of the fp16 variant: the bytes of its weights, and of a token's keys and values."""
    manifest = Manifest.load(artifact)
    shape, files = manifest.architecture, manifest.variants[Variant.FP16].files
    return Traffic(sum(file.size for file in files), 4 * shape.num_layers * shape.hidden_size)


@contextmanager
def opened(artifact: Path, device: Device, variant: Variant, num_slots: int) -> Iterator[Engine]:
    """An engine as a deployment's file would make it."""
    settings = {"variant": variant.value, "device": device.value, "num_slots": num_slots}
    (artifact / ENGINE_FILE).write_text(json.dumps(settings))
    engine = load_engine(artifact)
    try:
        yield engine
    finally:
        engine.close()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
