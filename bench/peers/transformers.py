"""transformers on torch: float32, not compiled, the whole batch in one `generate`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer

from bench.peers.protocol import Order, Prompts, Run, Stopwatch, serve


class Listener(BaseStreamer):  # type: ignore[misc]  # transformers is not typed
    """Receives the prompts first, then one token of every sequence at a time."""

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self._prompts_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self._prompts_seen:
            for index, token in enumerate(value.tolist()):
                self._watch.add(index, [token])
        self._prompts_seen = True

    def end(self) -> None:
        """Nothing is held back."""


def generate(model: Any, prompts: Prompts, new_tokens: int) -> Run:
    """Greedy, exactly `new_tokens` each: without an end token no sequence ends early."""
    model.generation_config.eos_token_id = None
    ids = torch.tensor(prompts, device=model.device)
    watch = Stopwatch(len(prompts))
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
            streamer=Listener(watch),
        )
    return watch.stop()


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
