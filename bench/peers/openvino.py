"""OpenVINO GenAI: weights in int8 as `optimum-cli export openvino --weight-format int8` makes them,
continuous batching."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino
import openvino_genai

from bench.peers.protocol import Order, Prompts, Run, Stopwatch, serve

CACHE_GIGABYTES = 4  # 32 sequences of 576 tokens take 1.4 GB in float32


def convert(order: Order) -> Path:
    target = order.folder / order.precision
    if not target.exists():
        part = order.folder / f"{order.precision}.part"
        command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino"]
        command += ["--model", order.checkpoint, "--task", "text-generation-with-past"]
        subprocess.run([*command, "--weight-format", order.precision, str(part)], check=True)
        part.rename(target)
    return target


class OpenVino:
    def __init__(self, order: Order) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GIGABYTES
        scheduler.max_num_seqs = order.most_sequences
        scheduler.enable_prefix_caching = False
        properties = {"INFERENCE_NUM_THREADS": order.threads}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            convert(order), scheduler, "CPU", properties
        )
        self._requests = 0
        self.versions = {name: version(name) for name in ("openvino", "openvino-genai", "nncf")}
        self.settings = (
            f"max_num_batched_tokens {scheduler.max_num_batched_tokens}, "
            f"dynamic_split_fuse {scheduler.dynamic_split_fuse}"
        )

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.do_sample = False
        config.ignore_eos = True
        rows = [openvino.Tensor(np.array([prompt], np.int64)) for prompt in prompts]
        watch = Stopwatch(len(prompts))
        handles = [self._pipeline.add_request(self._next_id(), row, config) for row in rows]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            for index, handle in enumerate(handles):
                while handle.can_read():
                    for output in handle.read().values():
                        watch.add(index, output.generated_ids)
        return watch.stop()

    def _next_id(self) -> int:
        self._requests += 1
        return self._requests


if __name__ == "__main__":
    serve(OpenVino)
