"""The peers: what each needs, how its environment is installed, and the bytes that it reads in a step."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from bench.checkpoints import SIZES
from bench.peers.material import SIZE, VOCABULARY
from runtime.contract import Variant

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "var" / "peers"
REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
CHECKPOINT = HOME / "checkpoint"
OURS = "bench.peers.ours"


class Instructions(Enum):
    """What all peers may use: what the processor has, or nothing beyond AVX2, to learn of other machines."""

    NATIVE = "native"
    AVX2 = "avx2"


# Each engine has a switch of its own. OpenVINO's holds for what it computes by oneDNN, and not for the rest.
SWITCHES = {
    Instructions.NATIVE: {},
    Instructions.AVX2: {
        "LMAAS_KERNELS": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",  # OpenVINO, torch, vLLM
        "ATEN_CPU_CAPABILITY": "avx2",  # torch, vLLM
        "CT2_FORCE_CPU_ISA": "AVX2",
    },
}


@dataclass(frozen=True, slots=True)
class Environment:
    """Python packages of one or more peers. `unwanted` are dependencies that break what is needed."""

    name: str
    unwanted: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    compiled: bool = False  # here, for the processor that compiles it
    instructions: Instructions = Instructions.NATIVE  # that it is compiled for

    @property
    def folder(self) -> Path:
        ending = f"-{self.instructions.value}" if self.instructions is not Instructions.NATIVE else ""
        return HOME / f"{self.name}{ending}" / "venv"

    @property
    def requirements(self) -> Path:
        return REQUIREMENTS / f"{self.name}.txt"

    @property
    def is_installed(self) -> bool:
        return (self.folder / "installed").exists()


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    label: str
    module: str  # the worker, as `python -m` takes it
    precision: str
    bits: float  # of a weight of the layers, scales included
    table_bits: float  # likewise of the table that logits come from
    environment: Environment | None = None  # None: the one that this process runs in
    root: Path = ROOT  # where a worker without an environment finds its modules

    @property
    def step_bytes(self) -> float:
        """Bytes of the matrices that every step multiplies with, each read once."""
        shape = SIZES[SIZE]
        layers = 12 * shape.layers * shape.hidden**2
        return (layers * self.bits + VOCABULARY * shape.hidden * self.table_bits) / 8

    @property
    def is_int8(self) -> bool:
        return 8 <= self.bits < 9

    @property
    def is_ours(self) -> bool:
        return self.module == OURS


_TORCH_EXTRAS = ("torchvision", "torchaudio", "torchcodec")
_OPENVINO = Environment("openvino", unwanted=_TORCH_EXTRAS)
_LLAMA = Environment("llama_cpp", compiled=True)
# Options of llama.cpp's build.
_AVX2_BUILD = " ".join(
    f"-DGGML_{name}" for name in ("NATIVE=OFF", "AVX=ON", "AVX2=ON", "FMA=ON", "F16C=ON", "BMI2=ON")
)
_VLLM = Environment(
    "vllm",
    unwanted=_TORCH_EXTRAS,
    variables={
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; 32 sequences of 576 tokens take 0.7
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # so that each step is taken here; it is quicker, too
        "VLLM_NO_USAGE_STATS": "1",
    },
)
PEERS = (
    Peer(
        "transformers",
        "transformers, fp32",
        "bench.peers.transformers",
        "fp32",
        32,
        32,
        Environment("transformers"),
    ),
    Peer("vllm", "vLLM, bf16", "bench.peers.vllm", "bfloat16", 16, 16, _VLLM),
    Peer(
        "ctranslate2",
        "CTranslate2, int8",
        "bench.peers.ctranslate2",
        "int8",
        8,
        8,
        Environment("ctranslate2"),
    ),
    Peer("openvino", "OpenVINO GenAI, int8", "bench.peers.openvino", "int8", 8, 8, _OPENVINO),
    # Blocks of 32 weights with a float16; q4_0 keeps the table in q6_K, 210 bytes for 256 weights.
    Peer("llama-q8_0", "llama.cpp, q8_0", "bench.peers.llama_cpp", "q8_0", 8.5, 8.5, _LLAMA),
    Peer("llama-q4_0", "llama.cpp, q4_0", "bench.peers.llama_cpp", "q4_0", 4.5, 6.5625, _LLAMA),
)
_OUR_BITS = {
    Variant.FP32: (32.0, 32.0),
    Variant.FP16: (16.0, 16.0),
    Variant.INT8: (8.0, 8.0),
    Variant.INT4: (4.25, 8.0),  # blocks of 32 with a byte
}


def ours(variant: Variant) -> Peer:
    bits, table_bits = _OUR_BITS[variant]
    return Peer(f"ours-{variant.value}", f"ours, {variant.value}", OURS, variant.value, bits, table_bits)


def limited(peer: Peer, instructions: Instructions) -> Peer:
    """The peer with an environment that was compiled for these instructions, where it is compiled at all."""
    if peer.environment is None or not peer.environment.compiled:
        return peer
    return replace(peer, environment=replace(peer.environment, instructions=instructions))


def environments(instructions: Instructions = Instructions.NATIVE) -> list[Environment]:
    """Each once, in the order of the peers."""
    limits = [limited(peer, instructions).environment for peer in PEERS]
    found = {environment.name: environment for environment in limits if environment}
    return list(found.values())


def install(environment: Environment) -> None:
    """Make the environment under var/peers; keep one that the same requirements made."""
    wanted = environment.requirements.read_text("utf-8")
    mark = environment.folder / "installed"
    if environment.is_installed and mark.read_text("utf-8") == wanted:
        print(f"{environment.name}: installed already", flush=True)
        return
    print(f"{environment.name}: installing ...", flush=True)
    begin = time.monotonic()
    shutil.rmtree(environment.folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(environment.folder)], check=True)
    pip = [str(environment.folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    given = dict(os.environ)
    if environment.instructions is Instructions.AVX2:
        given["CMAKE_ARGS"] = _AVX2_BUILD
        pip = [*pip, "--no-cache-dir"]  # it may hold what was compiled for more
    command = [*pip, "install", "--quiet", "--requirement", str(environment.requirements)]
    subprocess.run(command, check=True, env=given)
    if environment.unwanted:
        subprocess.run([*pip, "uninstall", "--quiet", "--yes", *environment.unwanted], check=True)
    mark.write_text(wanted, "utf-8")
    print(f"{environment.name}: installed in {time.monotonic() - begin:.0f} s", flush=True)
