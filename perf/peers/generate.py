"""`generate` of transformers, which optimum's models have as well, with the time of each token."""

from __future__ import annotations

from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from perf.peers.protocol import Prompts, Run, Stopwatch


class Listener(BaseStreamer):  # type: ignore[misc]  # transformers is not typed
    """Is told the prompts first, then one token of every sequence at a time."""

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
    """Greedy, exactly `new_tokens` each: without an end token there is nothing to end early."""
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
