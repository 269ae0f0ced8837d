"""What happens to a request before the core sees it: checks, tokens, sequences, and a place in the queue."""

from __future__ import annotations

import dataclasses
import secrets
import threading
from collections.abc import Mapping

from runtime.contract import MAX_TOKENIZED, FaultCode, LmTensors, Operation
from runtime.drain_rate import DrainRate
from runtime.errors import IntegrityError, RequestFault
from runtime.manifest import Architecture
from runtime.request import Request
from runtime.request_state import RequestState, Sequence, Sink
from runtime.sampling import DEFAULT_MAX_TOKENS, SamplingParameters, SequenceSampler
from runtime.text import Tokenizer

SEED_BITS = 53  # of a seed that is drawn: every JSON reader has such a number exactly
ROOM_SHARE = 10  # a refused caller comes back when about this fraction (1 / 10) of the queue is free again


class InputProcessor:
    """Checks requests against the limits of one model and tokenizes them. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, architecture: Architecture, kv_capacity: int) -> None:
        """`kv_capacity` is what the KV cache holds for all sequences together, in tokens."""
        self._tokenizer = tokenizer
        self._limit = architecture.context_length
        # OpenAI's words: libraries find them in a message.
        self._limit_reason = f"this model's maximum context length is {architecture.context_length} tokens"
        if kv_capacity < architecture.context_length:
            self._limit = kv_capacity
            self._limit_reason = f"max_kv_tokens of this server allows {kv_capacity}"
        self._max_characters = (architecture.context_length + 1) * max(1, tokenizer.longest_token)
        self._eos_token_id = architecture.eos_token_id
        self._vocab_size = architecture.vocab_size

    def process(self, request: Request, sink: Sink) -> RequestState:
        """Tokenize and check; raises RequestFault if the request is empty or too long."""
        if request.operation is Operation.SCORE:
            return self._score(request, sink)
        if request.operation is Operation.TOKENIZE:
            return self._tokenize(request, sink)
        if request.token_ids is not None:
            prompt = self._checked(request.token_ids)
            request = dataclasses.replace(request, text=self._tokenizer.decode(prompt))
        elif request.text or request.operation is Operation.EMBED:
            prompt = self._prompt(request, request.text)
        else:
            prompt = self._start()
        if not prompt:
            raise RequestFault.invalid(
                LmTensors.TEXT_INPUT, "the text is empty; at least one token is needed"
            )
        if request.operation is Operation.GENERATE:
            return self._generate(request, sink, prompt)
        state = RequestState(request, sink, prompt)
        first_wanted = 0 if request.operation is Operation.EMBED else len(prompt) - 1
        state.sequences = [Sequence(state, 0, request.operation, prompt, first_wanted=first_wanted)]
        return state

    def _generate(self, request: Request, sink: Sink, prompt: list[int]) -> RequestState:
        max_tokens = self._max_tokens(request.parameters, len(prompt))
        parameters = dataclasses.replace(request.parameters, max_tokens=max_tokens)
        if parameters.receipt and parameters.seed is None:
            parameters = dataclasses.replace(parameters, seed=secrets.randbits(SEED_BITS))
        self._check_bias(parameters.logit_bias)
        if parameters.grammar is not None and self._eos_token_id is None:
            why = "this model has no end-of-text token that could end the text"
            raise RequestFault.invalid(parameters.grammar.field, why)
        if request.stream and parameters.num_sequences > parameters.n:
            raise RequestFault.invalid(
                "best_of", f"{parameters.best_of} of n ({parameters.n}): a stream cannot choose; leave it out"
            )
        state = RequestState(dataclasses.replace(request, parameters=parameters), sink, prompt)
        prompt_scored = parameters.echo and parameters.logprobs is not None
        # Nothing is generated: the answer is the echo alone, with log-probabilities if they are asked for.
        if max_tokens == 0:
            if prompt_scored and len(prompt) > 1:
                state.sequences = [Sequence(state, 0, Operation.SCORE, prompt, first_wanted=0)]
            return state
        ends = () if self._eos_token_id is None else (self._eos_token_id,)
        with_logprob = request.with_logprob or parameters.receipt or parameters.num_sequences > parameters.n
        state.sequences = [
            Sequence(
                state,
                index,
                Operation.GENERATE,
                list(prompt),
                first_wanted=0 if prompt_scored and index == 0 else len(prompt) - 1,
                max_new_tokens=max_tokens,
                sampler=SequenceSampler(parameters, prompt, index, with_logprob=with_logprob, ends=ends),
                stop_at_eos=not parameters.ignore_eos,
            )
            for index in range(parameters.num_sequences)
        ]
        return state

    def _max_tokens(self, parameters: SamplingParameters, num_prompt: int) -> int:
        room, asked = self._limit - num_prompt, parameters.max_tokens
        if asked is not None and (asked <= room or not parameters.clamp_max_tokens):
            if asked > room:
                raise RequestFault.too_long(
                    "max_tokens",
                    f"{num_prompt} prompt tokens + {asked} = {num_prompt + asked}, but {self._limit_reason}",
                )
            return asked
        if room == 0:
            raise RequestFault.too_long(
                LmTensors.TEXT_INPUT, f"{num_prompt} tokens, and none can follow: {self._limit_reason}"
            )
        return min(DEFAULT_MAX_TOKENS if asked is None else asked, room)

    def _check_bias(self, bias: Mapping[int, float] | None) -> None:
        for token_id in bias or ():
            if token_id >= self._vocab_size:
                message = f"{token_id} is no token of this model; its ids go from 0 to {self._vocab_size - 1}"
                raise RequestFault.invalid("logit_bias", message)

    def _score(self, request: Request, sink: Sink) -> RequestState:
        """As EleutherAI's lm-evaluation-harness encodes a pair (`TemplateLM._encode_pair`)."""
        context = request.text.rstrip()
        moved = request.text[len(context) :]
        prompt = self._prompt(request, context) or self._start()
        state = RequestState(request, sink, prompt)
        for index, continuation in enumerate(request.continuations):
            tokens = self._encode(request, context + moved + continuation, "continuations")
            if not context or len(tokens) < 2:
                tokens = [*self._start(), *tokens]
            if len(tokens) - 1 > self._limit:
                raise RequestFault.too_long(
                    "continuations",
                    f"number {index} and the prompt have {len(tokens)} tokens, but {self._limit_reason}",
                )
            # A merge across the border may make the whole as short as the prompt: its last token is scored.
            begin = min(len(prompt), len(tokens) - 1)
            state.sequences.append(Sequence(state, index, Operation.SCORE, tokens, first_wanted=begin - 1))
        return state

    def _tokenize(self, request: Request, sink: Sink) -> RequestState:
        """No sequence is needed; the context is no limit."""
        if request.token_ids is not None:
            if len(request.token_ids) > MAX_TOKENIZED:
                message = f"{len(request.token_ids)} token ids, but at most {MAX_TOKENIZED} are read"
                raise RequestFault.invalid(LmTensors.PROMPT_TOKEN_IDS, message)
            return RequestState(request, sink, self._known(request.token_ids))
        if len(request.text) > MAX_TOKENIZED:
            message = f"{len(request.text)} characters, but at most {MAX_TOKENIZED} are read"
            raise RequestFault.invalid(LmTensors.TEXT_INPUT, message)
        return RequestState(request, sink, self._tokens(request, request.text, LmTensors.TEXT_INPUT))

    def _start(self) -> list[int]:
        """The prompt of an empty text: the token that stood before each text in training."""
        if self._eos_token_id is None:
            why = "a text is needed: this model has no end-of-text token that one could begin after"
            raise RequestFault.invalid(LmTensors.TEXT_INPUT, why)
        return [self._eos_token_id]

    def _checked(self, token_ids: tuple[int, ...]) -> list[int]:
        if not token_ids:
            raise RequestFault.invalid(LmTensors.PROMPT_TOKEN_IDS, "empty; at least one token id is needed")
        if len(token_ids) > self._limit:
            message = f"{len(token_ids)} tokens, but {self._limit_reason}"
            raise RequestFault.too_long(LmTensors.PROMPT_TOKEN_IDS, message)
        return self._known(token_ids)

    def _known(self, token_ids: tuple[int, ...]) -> list[int]:
        for place, token_id in enumerate(token_ids):
            if not 0 <= token_id < self._vocab_size:
                message = f"{token_id} is no token of this model; its ids go from 0 to {self._vocab_size - 1}"
                raise RequestFault.invalid(f"{LmTensors.PROMPT_TOKEN_IDS}.{place}", message)
        return list(token_ids)

    def _prompt(self, request: Request, text: str) -> list[int]:
        prompt = self._encode(request, text, LmTensors.TEXT_INPUT)
        if len(prompt) > self._limit:
            raise RequestFault.too_long(
                LmTensors.TEXT_INPUT, f"{len(prompt)} tokens, but {self._limit_reason}"
            )
        return prompt

    def _encode(self, request: Request, text: str, field: str) -> list[int]:
        # Cannot fit, however it is tokenized: refuse without the time that the tokenizer would take.
        if len(text) > self._max_characters:
            raise RequestFault.too_long(
                field, f"{len(text)} characters are too many tokens: {self._limit_reason}"
            )
        return self._tokens(request, text, field)

    def _tokens(self, request: Request, text: str, field: str) -> list[int]:
        try:
            return self._tokenizer.encode(text, special_tokens=request.parameters.special_tokens)
        except UnicodeEncodeError as error:
            raise RequestFault.invalid(
                field, f"not Unicode text: a lone surrogate at {error.start}"
            ) from None


class QueueLimits:
    """Bounds the queue: counts requests with waiting sequences, and their prompt tokens. Thread-safe."""

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self._requests, self._tokens = DrainRate(), DrainRate()
        self.num_requests = 0
        self.num_tokens = 0

    def reserve(self, state: RequestState) -> None:
        """Raises RequestFault: `queue_full`, or `invalid_argument` if the request alone is over the limit."""
        if not state.sequences:
            return
        tokens = state.num_tokens
        if tokens > self._max_tokens:
            raise RequestFault.invalid(
                "text_input", f"{tokens} tokens in all its sequences, but at most {self._max_tokens} may wait"
            )
        with self._lock:
            if self.num_requests >= self._max_requests:
                raise RequestFault.of(
                    FaultCode.QUEUE_FULL,
                    f"{self.num_requests} requests are waiting already",
                    self._requests.seconds_for(self._max_requests / ROOM_SHARE),
                )
            if self.num_tokens + tokens > self._max_tokens:
                raise RequestFault.of(
                    FaultCode.QUEUE_FULL,
                    f"{self.num_tokens} prompt tokens are waiting already, of at most {self._max_tokens}",
                    self._tokens.seconds_for(max(tokens, self._max_tokens / ROOM_SHARE)),
                )
            state.num_waiting = len(state.sequences)
            self.num_requests += 1
            self.num_tokens += tokens

    def release(self, sequence: Sequence) -> None:
        """The sequence waits no longer; called once for each."""
        with self._lock:
            self.num_tokens -= sequence.num_prompt
            self._tokens.note(sequence.num_prompt)
            sequence.state.num_waiting -= 1
            if sequence.state.num_waiting == 0:
                self.num_requests -= 1
                self._requests.note()

    def check_empty(self) -> None:
        """Raise IntegrityError if anything is counted; called while no request waits."""
        if self.num_requests or self.num_tokens:
            raise IntegrityError(
                f"no request waits, but {self.num_requests} are counted, with {self.num_tokens} tokens"
            )
