"""From a request to the sequences that answer it, or to the reason why this model cannot."""

from __future__ import annotations

import dataclasses

from runtime.contract import Architecture, Operation
from runtime.errors import RequestFault
from runtime.live import LiveRequest, Sink
from runtime.request import Request
from runtime.sampling import DEFAULT_MAX_TOKENS, SequenceSampler
from runtime.sequence import Sequence
from runtime.text import Tokenizer


class Planner:
    """Knows the limits of one model. Thread-safe: used by whoever submits."""

    def __init__(self, tokenizer: Tokenizer, architecture: Architecture, kv_capacity: int) -> None:
        """`kv_capacity` is what the KV cache holds for all sequences together, in tokens."""
        self._tokenizer = tokenizer
        self._limit = architecture.context_length
        self._bound = f"the context holds {architecture.context_length}"
        if kv_capacity < architecture.context_length:
            self._limit = kv_capacity
            self._bound = f"max_kv_tokens of this server allows {kv_capacity}"
        longest_token = max(len(tokenizer.token_bytes(token)) for token in range(architecture.vocab_size))
        self._most_characters = (architecture.context_length + 1) * max(1, longest_token)
        self._eos_token_id = architecture.eos_token_id

    def plan(self, request: Request, sink: Sink) -> LiveRequest:
        """Tokenize and check; raises RequestFault where the request is empty or too long."""
        if request.operation is Operation.SCORE:
            return self._score(request, sink)
        prompt = self._prompt(request.text)
        if not prompt:
            raise RequestFault.invalid("text_input", "the text is empty; at least one token is needed")
        if request.operation is Operation.GENERATE:
            return self._generate(request, sink, prompt)
        live = LiveRequest(request, sink, prompt)
        first_wanted = 0 if request.operation is Operation.EMBED else len(prompt) - 1
        live.sequences = [Sequence(live, 0, request.operation, prompt, first_wanted=first_wanted)]
        return live

    def _generate(self, request: Request, sink: Sink, prompt: list[int]) -> LiveRequest:
        max_tokens = self._max_tokens(request.parameters.max_tokens, len(prompt))
        parameters = dataclasses.replace(request.parameters, max_tokens=max_tokens)
        live = LiveRequest(dataclasses.replace(request, parameters=parameters), sink, prompt)
        prompt_scored = parameters.echo and parameters.logprobs is not None
        if max_tokens == 0:  # nothing but an echo: a matter of scoring, if of anything
            if prompt_scored and len(prompt) > 1:
                live.sequences = [Sequence(live, 0, Operation.SCORE, prompt, first_wanted=0)]
            return live
        live.sequences = [
            Sequence(
                live,
                index,
                Operation.GENERATE,
                list(prompt),
                first_wanted=0 if prompt_scored and index == 0 else len(prompt) - 1,
                max_new_tokens=max_tokens,
                sampler=SequenceSampler(parameters, prompt, index, with_logprob=request.with_logprob),
                stop_at_eos=not parameters.ignore_eos,
            )
            for index in range(parameters.n)
        ]
        return live

    def _max_tokens(self, asked: int | None, num_prompt: int) -> int:
        room = self._limit - num_prompt
        if asked is None:
            if room == 0:
                raise RequestFault.invalid(
                    "text_input", f"{num_prompt} tokens, and none can follow: {self._bound}"
                )
            return min(DEFAULT_MAX_TOKENS, room)
        if asked > room:
            raise RequestFault.invalid(
                "max_tokens",
                f"{num_prompt} prompt tokens + {asked} = {num_prompt + asked}, but {self._bound}",
            )
        return asked

    def _score(self, request: Request, sink: Sink) -> LiveRequest:
        """As EleutherAI's lm-evaluation-harness encodes a pair (`TemplateLM._encode_pair`)."""
        context = request.text.rstrip()
        moved = request.text[len(context) :]
        prompt = self._prompt(context) or [self._eos_token_id]
        live = LiveRequest(request, sink, prompt)
        for index, continuation in enumerate(request.continuations):
            tokens = self._encode(context + moved + continuation, "continuations")
            if not context or len(tokens) < 2:
                tokens = [self._eos_token_id, *tokens]
            if len(tokens) - 1 > self._limit:
                raise RequestFault.invalid(
                    "continuations",
                    f"number {index} and the prompt have {len(tokens)} tokens, but {self._bound}",
                )
            # A merge across the border may leave the whole no longer than the prompt: its last token counts.
            begin = min(len(prompt), len(tokens) - 1)
            live.sequences.append(Sequence(live, index, Operation.SCORE, tokens, first_wanted=begin - 1))
        return live

    def _prompt(self, text: str) -> list[int]:
        prompt = self._encode(text, "text_input")
        if len(prompt) > self._limit:
            raise RequestFault.invalid("text_input", f"{len(prompt)} tokens, but {self._bound}")
        return prompt

    def _encode(self, text: str, field: str) -> list[int]:
        if len(text) > self._most_characters:  # cannot fit, however it is cut: not worth the tokenizer's time
            raise RequestFault.invalid(field, f"{len(text)} characters are too many tokens: {self._bound}")
        try:
            return self._tokenizer.encode(text)
        except UnicodeEncodeError as error:
            raise RequestFault.invalid(
                field, f"not Unicode text: a lone surrogate at {error.start}"
            ) from None
