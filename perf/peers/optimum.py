"""optimum's ONNX export in float32 on ONNX Runtime, through its own `generate`."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import onnxruntime
from optimum.onnxruntime import ORTModelForCausalLM

from perf.peers.generate import generate
from perf.peers.protocol import Order, Prompts, Run, serve


def convert(order: Order) -> Path:
    target = order.folder / order.precision
    if not target.exists():
        part = order.folder / f"{order.precision}.part"
        command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "onnx"]
        command += ["--model", order.checkpoint, "--task", "text-generation-with-past"]
        subprocess.run([*command, str(part)], check=True)
        part.rename(target)
    return target


class Optimum:
    def __init__(self, order: Order) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = order.threads
        self._model = ORTModelForCausalLM.from_pretrained(convert(order), session_options=options)
        self.versions = {name: version(name) for name in ("optimum", "optimum-onnx", "onnxruntime")}
        self.settings = f"binding {'on' if self._model.use_io_binding else 'off'}"

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        return generate(self._model, prompts, new_tokens)


if __name__ == "__main__":
    serve(Optimum)
