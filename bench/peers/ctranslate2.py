"""CTranslate2 in int8, one call for the whole batch, which is as large as it comes."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import ctranslate2
from ctranslate2.converters import TransformersConverter

from bench.peers.protocol import Order, Prompts, Run, Stopwatch, serve


def convert(order: Order) -> Path:
    target = order.folder / order.precision
    if not target.exists():
        part = order.folder / f"{order.precision}.part"
        TransformersConverter(order.checkpoint).convert(str(part), quantization=order.precision, force=True)
        part.rename(target)
    return target


class CTranslate2:
    def __init__(self, order: Order) -> None:
        folder = convert(order)
        self._generator = ctranslate2.Generator(
            str(folder),
            device="cpu",
            compute_type=order.precision,
            inter_threads=1,
            intra_threads=order.threads,
        )
        self._vocabulary: list[str] = json.loads((folder / "vocabulary.json").read_text("utf-8"))
        self.versions = {"ctranslate2": version("ctranslate2")}
        self.settings = f"{self._generator.compute_type}, inter_threads 1, intra_threads {order.threads}"

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        starts = [[self._vocabulary[token] for token in prompt] for prompt in prompts]
        watch = Stopwatch(len(prompts))

        def note(step: ctranslate2.GenerationStepResult) -> bool:
            watch.add(step.batch_id, [step.token_id])
            return False

        self._generator.generate_batch(
            starts,
            include_prompt_in_result=False,
            beam_size=1,
            sampling_topk=1,
            min_length=new_tokens,
            max_length=new_tokens,
            callback=note,
        )
        return watch.stop()


if __name__ == "__main__":
    serve(CTranslate2)
