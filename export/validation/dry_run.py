"""The first run of a ready-made graph, in a separate process with limits.

`dry_run` starts `python -m export.validation.dry_run FOLDER VARIANT`, which sets its limits, opens the graph,
answers the golden prompts and prints one JSON object: {"problem": null} or {"problem": what is wrong}.
The parent turns every other end of the process into an ArtifactError.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from export.errors import ArtifactError, ExportError
from export.protocol import own_standard_output
from export.validation.golden import check_golden
from kernels.library import SWITCH
from kernels.processors import usable_cores
from runtime.contract import Variant
from runtime.manifest import Manifest

_ROOT = Path(__file__).resolve().parents[2]
_OUT_OF_MEMORY = re.compile(
    r"MemoryError|bad_?\s?alloc|[Cc]annot allocate|[Ff]ailed to allocate|allocation of"
)
# For Python, its libraries and the working memory of a small model; 50 MB were measured.
BASE_BYTES = 256 << 20
# A GPT-2 of 124M weights needed up to 1.8 times the bytes of its files, most in int4.
WEIGHT_COPIES = 3
SCORE_BYTES = 32  # for each token of the vocabulary and each golden prompt: logits, and softmax in float64
BASE_SECONDS = 60.0
BYTES_PER_SECOND = 8 << 20  # of weights; 500 MB/s were measured on a machine that did nothing else
_SPARE_CPU_SECONDS = 2  # between SIGXCPU, which names the reason, and SIGKILL


@dataclass(frozen=True, slots=True)
class DryRunLimits:
    data_bytes: int  # of private memory: mapped files do not count
    seconds: float

    @classmethod
    def of(cls, manifest: Manifest, variant: Variant) -> DryRunLimits:
        """Limits by the size of the weights, the cache for the golden prompts, and their logits."""
        size, shape = manifest.variants[variant].size, manifest.architecture
        rows = len(manifest.golden) + 1
        # A token has at least one byte of its text.
        read = max((len(prompt.text.encode()) for prompt in manifest.golden), default=1)
        written = max((len(answer.token_ids) for answer in manifest.variants[variant].golden), default=0)
        token_bytes = 2 * sum(shape.heads) * shape.head_size * 4
        cache = rows * min(read + written, shape.context_length) * token_bytes
        data_bytes = BASE_BYTES + WEIGHT_COPIES * size + cache + SCORE_BYTES * rows * shape.vocab_size
        return cls(data_bytes, BASE_SECONDS + size / BYTES_PER_SECOND)


def dry_run(folder: Path, variant: Variant, manifest: Manifest, limits: DryRunLimits | None = None) -> None:
    """Run one variant of the artifact `folder`, which was validated; raises ArtifactError."""
    limits = limits or DryRunLimits.of(manifest, variant)
    inherited, _ = resource.getrlimit(resource.RLIMIT_DATA)
    data_bytes = limits.data_bytes if inherited < 0 else min(limits.data_bytes, inherited)
    problem = _run(folder, variant, data_bytes, limits.seconds)
    if problem is not None:
        path = manifest.variants[variant].graph.path
        raise ArtifactError(f"{path}: dry run: {problem}", field=path)


def _run(folder: Path, variant: Variant, data_bytes: int, seconds: float) -> str | None:
    threads = usable_cores()
    command = [sys.executable, "-m", "export.validation.dry_run", str(folder.absolute()), variant.value]
    command += ["--data-bytes", str(data_bytes), "--cpu-seconds", str(int(seconds * threads) + 1)]
    environment = {name: os.environ[name] for name in ("HOME", "LANG", "PATH", SWITCH) if name in os.environ}
    try:
        ended = subprocess.run(
            command,
            cwd=_ROOT,  # `-m` imports from the working directory first
            # NumPy's threads are not needed, and each reserves memory.
            env={**environment, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {seconds:g} s"
    try:
        problem: str | None = json.loads(ended.stdout)["problem"]
    except ValueError:
        problem = _explain(ended.returncode, ended.stderr.decode(errors="replace"))
    if problem is not None and _OUT_OF_MEMORY.search(problem):
        return f"needs more than {data_bytes} bytes of memory"
    return problem


def _explain(status: int, complaint: str) -> str:
    """The reason of a process that ended without an answer."""
    lines = complaint.strip().splitlines() or [""]
    if _OUT_OF_MEMORY.search(complaint):
        return MemoryError.__name__
    if status == -signal.SIGXCPU:
        return "took more processor time than it may"
    how = f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return f"{how} {lines[-1][:200]}".strip()


def main(arguments: list[str] | None = None) -> int:
    """Runs in the child process."""
    parser = argparse.ArgumentParser(prog="python -m export.validation.dry_run", description=__doc__)
    parser.add_argument("folder", type=Path, help="an artifact")
    parser.add_argument("variant", type=Variant)
    parser.add_argument("--data-bytes", type=int, required=True)
    parser.add_argument("--cpu-seconds", type=int, required=True)
    options = parser.parse_args(arguments)
    answer = own_standard_output()
    _limit(options.data_bytes, options.cpu_seconds)
    print(json.dumps({"problem": _problem(options.folder, options.variant)}), file=answer, flush=True)
    return 0


def _limit(data_bytes: int, cpu_seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + _SPARE_CPU_SECONDS))
    for nothing in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(nothing, (0, 0))


def _problem(folder: Path, variant: Variant) -> str | None:
    try:
        check_golden(folder, variant, Manifest.load(folder))
    except ExportError as error:
        return error.message
    except Exception as error:  # onnxruntime raises errors of many types
        text = str(error).replace(f"{folder}/", "")
        return f"cannot be run: {type(error).__name__}: {' '.join(text.split())[:300]}"
    return None


if __name__ == "__main__":
    sys.exit(main())
