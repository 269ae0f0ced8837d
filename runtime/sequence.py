"""One sequence of tokens on its way through the engine: all that policy, memory and compute share."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from runtime.contract import FinishReason, Operation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from runtime.live import LiveRequest
    from runtime.sampling import SequenceSampler


class SequenceState(Enum):
    WAITING = "waiting"  # no slot yet
    RUNNING = "running"  # owns a slot
    FINISHED = "finished"  # owns nothing; `finish_reason` says why


class Sequence:
    """Tokens, how many of them are in the KV cache, and which output rows are wanted.

    positions   0 ........ computed ........ end
                in the KV cache  |  still to be run
                    first_wanted ... end      their output rows (logits, or hidden states to embed) are wanted

    Owner of every field: the step thread, once the sequence was handed to it.
    """

    __slots__ = (
        "caller", "computed", "finish_reason", "first_wanted", "generates", "hidden_sum", "index", "live",
        "max_length", "need", "num_prompt", "operation", "priority", "sampler", "slot", "state",
        "stop_at_eos", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        live: LiveRequest,
        index: int,
        operation: Operation,
        tokens: list[int],
        *,
        first_wanted: int,
        max_new_tokens: int = 0,
        sampler: SequenceSampler | None = None,
        stop_at_eos: bool = True,
    ) -> None:
        self.live = live
        self.index = index  # the choice or continuation of its request
        self.priority = live.request.parameters.priority
        self.caller = live.request.parameters.caller
        self.operation = operation
        self.generates = operation is Operation.GENERATE
        self.tokens = tokens
        self.num_prompt = len(tokens)
        self.first_wanted = first_wanted
        self.max_length = len(tokens) + max_new_tokens
        # Rows of the KV cache that it is promised; a scored text has none for its last token.
        self.need = self.max_length - (operation is Operation.SCORE)
        self.sampler = sampler
        self.stop_at_eos = stop_at_eos
        self.state = SequenceState.WAITING
        self.slot = -1
        self.computed = 0
        self.hidden_sum: NDArray[np.float32] | None = (
            None  # [hidden], over the rows run so far; operation `embed`
        )
        self.finish_reason: FinishReason | None = None

    @property
    def end(self) -> int:
        """Positions to run: a scored text needs no output after its last token."""
        return len(self.tokens) - (self.operation is Operation.SCORE)

    @property
    def is_decoding(self) -> bool:
        """It generates, and only its newest token is still to be run."""
        return self.generates and len(self.tokens) - self.computed == 1

    @property
    def reusable(self) -> int:
        """How many leading positions may come from another sequence's cache rows instead of being run."""
        return min(self.first_wanted, self.end - 1)

    def ending(self, eos_token_id: int) -> FinishReason | None:
        """Why the newest token is the last one, if it is."""
        if self.stop_at_eos and self.tokens[-1] == eos_token_id:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.tokens) >= self.max_length else None
