"""transformers on torch: float32, not compiled, the whole batch in one `generate`."""

from __future__ import annotations

from importlib.metadata import version

import torch
from transformers import AutoModelForCausalLM

from perf.peers.generate import generate
from perf.peers.protocol import Order, Prompts, Run, serve


class Transformers:
    def __init__(self, order: Order) -> None:
        torch.set_num_threads(order.threads)
        self._model = AutoModelForCausalLM.from_pretrained(order.checkpoint, dtype=torch.float32).eval()
        self.versions = {name: version(name) for name in ("transformers", "torch")}
        self.settings = f"{self._model.config._attn_implementation} attention, not compiled"

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        return generate(self._model, prompts, new_tokens)


if __name__ == "__main__":
    serve(Transformers)
