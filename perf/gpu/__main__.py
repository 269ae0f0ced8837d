"""The command: see the package."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kernels.accelerator import Accelerator, AcceleratorError
from perf.errors import PerfError
from perf.http.plan import parse_counts
from perf.peers.material import PromptSource, as_texts, write_material
from perf.report import command_line, markdown_table, write
from runtime.contract import ENGINE_FILE, TOKENIZER_FILE, Device, Manifest, Variant
from runtime.engine import Engine

FOLDER = Path(__file__).resolve().parents[2] / "var" / "perf-gpu"
CHECKED_LENGTHS = (1, 2, 7, 30, 128, 129, 300, 600)  # tokens; a chunk of prefill is 128
CHECKED_SLOTS = 16


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lmaas perf gpu", description=__doc__)
    parser.add_argument("--batches", default="1,4,16,64")
    parser.add_argument("--prompts", default="32,512", help="tokens of a prompt; default: 32,512")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only-checks", action="store_true", help="do not measure")
    return parser.parse_args(arguments)


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


def main() -> None:
    options = parse()
    try:
        require_gpu()
        run(options)
    except PerfError as error:
        sys.exit(str(error))  # on stderr, with exit code 1


def run(options: argparse.Namespace) -> None:
    batches, prompts = parse_counts("--batches", options.batches), parse_counts("--prompts", options.prompts)
    checkpoint, artifact = FOLDER / "checkpoint", FOLDER / "artifact"
    say("writing a checkpoint of GPT-2's shape and exporting it")
    write_material(checkpoint)
    exporting = [sys.executable, "-m", "export", str(checkpoint), str(artifact), "--overwrite"]
    subprocess.run([*exporting, "--name", "gpt2", "--variants", "fp32,fp16"], check=True)
    source = PromptSource(artifact / TOKENIZER_FILE)
    held, text, data = _check(artifact, source)
    if not options.only_checks:
        speed_text, speed_data = _measure(options, batches, prompts, artifact, checkpoint, source)
        text, data = f"{text}\n{speed_text}", data | speed_data
    command = command_line("gpu")
    write("gpu", f"`{command}`\n\n{text}", {"command": command, **data})
    if not held:
        raise PerfError("not all checks held")


def _check(artifact: Path, source: PromptSource) -> tuple[bool, str, dict[str, Any]]:
    from perf.gpu.checks import check_engine

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
    options: argparse.Namespace,
    batches: list[int],
    prompts: list[int],
    artifact: Path,
    checkpoint: Path,
    source: PromptSource,
) -> tuple[str, dict[str, Any]]:
    import torch

    from perf.gpu.speed import COLUMNS, Case, Subject, Traffic, measure
    from perf.gpu.subjects import Ours, Transformers, measure_bandwidth

    manifest = Manifest.load(artifact)
    shape, files = manifest.architecture, manifest.variants[Variant.FP16].files
    traffic = Traffic(sum(file.size for file in files), 4 * shape.num_layers * shape.hidden_size)
    cases = [Case(batch, prompt) for prompt in prompts for batch in batches]
    bandwidth = measure_bandwidth()
    with opened(artifact, Device.CUDA, Variant.FP16, max(batches)) as engine:
        subjects: list[Subject] = [
            Ours(engine, artifact),
            Transformers(checkpoint, compiled=False),
            Transformers(checkpoint, compiled=True),
        ]
        found = measure(subjects, cases, source, options.rounds, options.new_tokens, say)
    bandwidth = max(bandwidth, measure_bandwidth())
    rows = [
        measured.row(name, case, traffic, bandwidth, options.new_tokens)
        for case, subjects_found in found.items()
        for name, measured in subjects_found.items()
    ]
    device = torch.cuda.get_device_name()
    head = (
        f"{device}, {bandwidth / 1e9:.0f} GB/s (a copy within it), torch {torch.__version__}, fp16, "
        f"GPT-2's 124M shape with random weights, {options.new_tokens} new tokens, "
        f"{options.rounds} rounds in turn, median (least to most):\n\n"
    )
    figures = {
        str(case): {name: asdict(measured) for name, measured in subjects_found.items()}
        for case, subjects_found in found.items()
    }
    data = {"device": device, "bandwidth": bandwidth, "traffic": asdict(traffic), "figures": figures}
    return head + markdown_table(COLUMNS, rows), data


@contextmanager
def opened(artifact: Path, device: Device, variant: Variant, num_slots: int) -> Iterator[Engine]:
    """An engine as a deployment's file would make it."""
    settings = {"variant": variant.value, "device": device.value, "num_slots": num_slots}
    (artifact / ENGINE_FILE).write_text(json.dumps(settings))
    engine = Engine.load(artifact)
    try:
        yield engine
    finally:
        engine.close()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
