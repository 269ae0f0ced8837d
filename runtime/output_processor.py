"""Output processors build answers from events: one for each request. Used by the output thread only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from runtime.contract import FinishReason, Operation
from runtime.messages import (
    Answer,
    Candidate,
    Candidates,
    Choice,
    Embedded,
    Generated,
    Score,
    Scored,
    ScoredToken,
    Tokenized,
    TokenLogprob,
    Usage,
)
from runtime.receipts import LogprobDigest, Receipt, ReceiptChoice
from runtime.request_state import (
    DoneEvent,
    Event,
    OutputProcessor,
    RanksEvent,
    RequestState,
    ScoredEvent,
    TokenEvent,
    VectorEvent,
)
from runtime.sampling import Sampled
from runtime.text import TextOffsets, TextStream, Tokenizer

StopSequence = Callable[[RequestState, int], None]


def output_processor_for(
    state: RequestState, tokenizer: Tokenizer, stop_sequence: StopSequence, receipt: Receipt
) -> OutputProcessor:
    """By the operation of the request. `stop_sequence` is called when a stop string completes.

    `receipt` has what is the same for all requests of the engine.
    """
    if state.request.operation is Operation.GENERATE:
        return GenerateOutput(state, tokenizer, stop_sequence, receipt)
    if state.request.operation is Operation.SCORE:
        return ScoreOutput(state, tokenizer)
    return SingleOutput(state, tokenizer)


class GenerateOutput:
    """Texts of all choices. Events after a stop string are ignored: the core learns of it later."""

    def __init__(
        self, state: RequestState, tokenizer: Tokenizer, stop_sequence: StopSequence, receipt: Receipt
    ) -> None:
        self._state = state
        self._tokenizer = tokenizer
        self._stop_sequence = stop_sequence
        self._receipt = receipt
        self._parameters = state.request.parameters
        self._prompt_records: list[TokenLogprob] = []
        self._prompt_offsets = self._offsets_of_prompt() if self._echoes_records else []
        if self._echoes_records:
            first = state.prompt[0]
            self._prompt_records.append(TokenLogprob(first, tokenizer.token_text(first), None))
        begin = len(state.request.text) if self._parameters.echo else 0
        self._choices = [
            _GrowingChoice(index, TextStream(tokenizer, self._parameters.stop), TextOffsets(tokenizer, begin))
            for index in range(self._parameters.num_sequences)
        ]

    @property
    def _echoes_records(self) -> bool:
        return self._parameters.echo and self._parameters.logprobs is not None

    def _offsets_of_prompt(self) -> list[int]:
        """In the caller's text; the tokenizer may have put a space before it.

        The text of a prompt of token ids leaves control tokens out, any other one spells them out.
        """
        tokens, request = self._state.prompt, self._state.request
        spelled = request.token_ids is None
        bytes_of = self._tokenizer.spelled if spelled else self._tokenizer.token_bytes
        read = b"".join(map(bytes_of, tokens)).decode("utf-8", "replace")
        offsets = TextOffsets(self._tokenizer, len(request.text) - len(read), spelled=spelled)
        return [max(0, offsets.next(token)) for token in tokens]

    def add(self, event: Event) -> None:
        if isinstance(event, TokenEvent):
            self._add_token(self._choices[event.sequence_index], event)
        elif isinstance(event, ScoredEvent):
            offsets = self._prompt_offsets[len(self._prompt_records) :]
            self._prompt_records += [
                record_of(scored, self._tokenizer, offset)
                for scored, offset in zip(event.scored, offsets, strict=False)
            ]
        elif isinstance(event, DoneEvent):  # max_tokens is 0
            for choice in self._choices:
                choice.finish_reason = FinishReason.LENGTH

    def _add_token(self, choice: _GrowingChoice, event: TokenEvent) -> None:
        if choice.finish_reason is not None:
            return
        choice.add(event.sampled)
        if self._parameters.receipt:
            choice.receipt_ids.append(event.sampled.token_id)
            choice.logprob_digest.add(event.sampled.logprob)
        if self._parameters.logprobs is not None:
            offset = choice.offsets.next(event.sampled.token_id)
            choice.records.append(record_of(event.sampled, self._tokenizer, offset))
        if event.reason is not FinishReason.STOP:  # the end-of-text token has no text
            stops = choice.num_tokens > self._parameters.min_tokens
            choice.text += choice.stream.push(event.sampled.token_id, stops=stops)
        if event.reason is not None:
            choice.text += choice.stream.finish()
            choice.finish_reason = FinishReason.STOP if choice.stream.stopped else event.reason
        elif choice.stream.stopped:
            choice.finish_reason = FinishReason.STOP
            self._stop_sequence(self._state, event.sequence_index)

    @property
    def complete(self) -> bool:
        return None not in [choice.finish_reason for choice in self._choices]

    def next_answer(self) -> tuple[Answer, bool] | None:
        final = self.complete
        if not final and not self._state.request.stream:
            return None
        answered = self._answered()
        ready = [self._unsent_part(choice) for choice in answered if choice.has_unsent]
        if not ready:
            return None
        completion_tokens = sum(choice.num_tokens for choice in self._choices)
        prompt_tokens = len(self._state.prompt)
        usage = Usage.of(prompt_tokens, completion_tokens) if final else None
        timings = self._state.timings if final else None
        receipt = self._receipt_of(answered) if final and self._parameters.receipt else None
        return Generated(prompt_tokens, ready, usage, timings, self._state.request.text, receipt), final

    def _receipt_of(self, answered: list[_GrowingChoice]) -> Receipt:
        return dataclasses.replace(
            self._receipt,
            prompt_token_ids=self._state.prompt,
            parameters=self._parameters.effective,
            choices=[choice.receipt for choice in answered],
        )

    def _answered(self) -> list[_GrowingChoice]:
        """The choices that the answer has: of more than `n`, the likeliest, once all are complete."""
        count = self._parameters.n
        if len(self._choices) == count:
            return self._choices
        likeliest = sorted(self._choices, key=lambda choice: -choice.mean_logprob)[:count]
        for index, choice in enumerate(likeliest):
            choice.index = index
        return likeliest

    def _unsent_part(self, choice: _GrowingChoice) -> Choice:
        text, records = choice.text, choice.records if self._parameters.logprobs is not None else None
        if not choice.begun and self._parameters.echo:
            text = self._state.request.text + text
            records = None if records is None else self._prompt_records + records
        part = Choice(
            choice.index, text, choice.token_ids, records, choice.finish_reason, choice.cumulative_logprob
        )
        choice.begun, choice.reported = True, choice.finish_reason is not None
        choice.text, choice.token_ids, choice.records = "", [], []
        return part


class _GrowingChoice:
    """One generated text, and the part of it that was not sent yet."""

    def __init__(self, index: int, stream: TextStream, offsets: TextOffsets) -> None:
        self.index = index
        self.stream = stream
        self.offsets = offsets
        self.text = ""
        self.token_ids: list[int] = []
        self.records: list[TokenLogprob] = []
        self.num_tokens = 0
        self.cumulative_logprob = 0.0
        self.receipt_ids: list[int] = []  # all of its tokens, where a receipt is asked for
        self.logprob_digest = LogprobDigest()  # of these
        self.finish_reason: FinishReason | None = None
        self.begun = False  # a part was sent
        self.reported = False  # the finish reason was sent

    @property
    def has_unsent(self) -> bool:
        """Tokens whose bytes are not a whole character yet wait for the rest of it."""
        return bool(self.text) or (self.finish_reason is not None and not self.reported)

    @property
    def receipt(self) -> ReceiptChoice:
        return ReceiptChoice(
            self.index, self.receipt_ids, self.logprob_digest.hexdigest(), self.finish_reason
        )

    @property
    def mean_logprob(self) -> float:
        return self.cumulative_logprob / max(1, self.num_tokens)

    def add(self, sampled: Sampled) -> None:
        self.num_tokens += 1
        self.cumulative_logprob += sampled.logprob
        self.token_ids.append(sampled.token_id)


class ScoreOutput:
    def __init__(self, state: RequestState, tokenizer: Tokenizer) -> None:
        self._state = state
        self._tokenizer = tokenizer
        self._scores = [Score(len(text.encode())) for text in state.request.continuations]
        self._open = set(range(len(self._scores)))

    def add(self, event: Event) -> None:
        if isinstance(event, ScoredEvent):
            self._scores[event.sequence_index].tokens.extend(
                ScoredToken(item.token_id, self._tokenizer.token_text(item.token_id), item.logprob)
                for item in event.scored
            )
        elif isinstance(event, DoneEvent):
            self._open.discard(event.sequence_index)

    @property
    def complete(self) -> bool:
        return not self._open

    def next_answer(self) -> tuple[Answer, bool] | None:
        return None if self._open else (Scored(self._scores, Usage.of(self._state.num_tokens)), True)


class SingleOutput:
    """The answer is one event: operations `next`, `embed` and `tokenize`."""

    def __init__(self, state: RequestState, tokenizer: Tokenizer) -> None:
        self._prompt = state.prompt
        self._usage = Usage.of(len(state.prompt))
        self._tokenizer = tokenizer
        self._answer: Answer | None = None

    def add(self, event: Event) -> None:
        if isinstance(event, VectorEvent):
            self._answer = Embedded(event.vector.tolist(), self._usage)
        elif isinstance(event, RanksEvent):
            listed = [
                Candidate(token, self._tokenizer.token_text(token), math.exp(logprob), logprob)
                for token, logprob in event.candidates
            ]
            self._answer = Candidates(listed, self._usage)
        elif isinstance(event, DoneEvent) and self._answer is None:
            self._answer = self._tokenized()

    def _tokenized(self) -> Tokenized:
        tokenizer = self._tokenizer
        text = b"".join(map(tokenizer.spelled, self._prompt)).decode("utf-8", "replace")
        eos = None if tokenizer.eos_token_id is None else tokenizer.token_text(tokenizer.eos_token_id)
        return Tokenized(text, self._prompt, [tokenizer.token_text(token) for token in self._prompt], eos)

    @property
    def complete(self) -> bool:
        return self._answer is not None

    def next_answer(self) -> tuple[Answer, bool] | None:
        answer, self._answer = self._answer, None
        return None if answer is None else (answer, True)


def record_of(sampled: Sampled, tokenizer: Tokenizer, text_offset: int = 0) -> TokenLogprob:
    top = tuple(ScoredToken(token, tokenizer.token_text(token), logprob) for token, logprob in sampled.top)
    return TokenLogprob(
        sampled.token_id, tokenizer.token_text(sampled.token_id), sampled.logprob, top, text_offset
    )
