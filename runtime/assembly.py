"""Building answers out of events, one assembly per request. Used by the delivery thread only."""

from __future__ import annotations

import math
from collections.abc import Callable

from runtime.answers import (
    Answer,
    Candidate,
    Candidates,
    Choice,
    Embedded,
    Generated,
    Score,
    Scored,
    TokenRecord,
    Usage,
)
from runtime.contract import FinishReason, Operation
from runtime.live import (
    Assembly,
    DoneEvent,
    Event,
    LiveRequest,
    RanksEvent,
    ScoredEvent,
    TokenEvent,
    VectorEvent,
)
from runtime.sampling import Sampled
from runtime.text import TextStream, Tokenizer

StopSequence = Callable[[LiveRequest, int], None]


def assembly_for(live: LiveRequest, tokenizer: Tokenizer, stop_sequence: StopSequence) -> Assembly:
    """The assembly for the request's operation; `stop_sequence` is told where a stop string completed."""
    if live.request.operation is Operation.GENERATE:
        return GenerateAssembly(live, tokenizer, stop_sequence)
    if live.request.operation is Operation.SCORE:
        return ScoreAssembly(live, tokenizer)
    return SingleAssembly(live, tokenizer)


class GenerateAssembly:
    """Texts of all choices. The engine learns late of a stop string: later events mean nothing."""

    def __init__(self, live: LiveRequest, tokenizer: Tokenizer, stop_sequence: StopSequence) -> None:
        self._live = live
        self._tokenizer = tokenizer
        self._stop_sequence = stop_sequence
        self._parameters = live.request.parameters
        self._prompt_records: list[TokenRecord] = []
        if self._echoes_records:
            first = live.prompt[0]
            self._prompt_records.append(TokenRecord(first, tokenizer.token_text(first), None))
        self._choices = [
            _GrowingChoice(index, TextStream(tokenizer, self._parameters.stop))
            for index in range(self._parameters.n)
        ]

    @property
    def _echoes_records(self) -> bool:
        return self._parameters.echo and self._parameters.logprobs is not None

    def add(self, event: Event) -> None:
        if isinstance(event, TokenEvent):
            self._add_token(self._choices[event.sequence_index], event)
        elif isinstance(event, ScoredEvent):
            self._prompt_records += [record_of(scored, self._tokenizer) for scored in event.scored]
        elif isinstance(event, DoneEvent):  # nothing was to be generated
            for choice in self._choices:
                choice.finish_reason = FinishReason.LENGTH

    def _add_token(self, choice: _GrowingChoice, event: TokenEvent) -> None:
        if choice.finish_reason is not None:
            return
        choice.add(event.sampled)
        if self._parameters.logprobs is not None:
            choice.records.append(record_of(event.sampled, self._tokenizer))
        if event.reason is not FinishReason.STOP:  # the end-of-text token has no text
            choice.text += choice.stream.push(event.sampled.token_id)
        if event.reason is not None:
            choice.text += choice.stream.finish()
            choice.finish_reason = FinishReason.STOP if choice.stream.stopped else event.reason
        elif choice.stream.stopped:
            choice.finish_reason = FinishReason.STOP
            self._stop_sequence(self._live, event.sequence_index)

    @property
    def complete(self) -> bool:
        return all(choice.finish_reason is not None for choice in self._choices)

    def take(self) -> tuple[Answer, bool] | None:
        final = self.complete
        if not final and not self._live.request.stream:
            return None
        ready = [self._taken(choice) for choice in self._choices if choice.has_news]
        if not ready:
            return None
        completion_tokens = sum(choice.num_tokens for choice in self._choices)
        prompt_tokens = len(self._live.prompt)
        usage = Usage(prompt_tokens, completion_tokens) if final else None
        return Generated(prompt_tokens, ready, usage, self._live.timings if final else None), final

    def _taken(self, choice: _GrowingChoice) -> Choice:
        text, records = choice.text, choice.records if self._parameters.logprobs is not None else None
        if not choice.begun and self._parameters.echo:
            text = self._live.request.text + text
            records = None if records is None else self._prompt_records + records
        taken = Choice(
            choice.index, text, choice.token_ids, records, choice.finish_reason, choice.cumulative_logprob
        )
        choice.begun, choice.reported = True, choice.finish_reason is not None
        choice.text, choice.token_ids, choice.records = "", [], []
        return taken


class _GrowingChoice:
    """One generated text, and what of it was not taken yet."""

    def __init__(self, index: int, stream: TextStream) -> None:
        self.index = index
        self.stream = stream
        self.text = ""
        self.token_ids: list[int] = []
        self.records: list[TokenRecord] = []
        self.num_tokens = 0
        self.cumulative_logprob = 0.0
        self.finish_reason: FinishReason | None = None
        self.begun = False  # something was taken
        self.reported = False  # the finish reason was taken

    @property
    def has_news(self) -> bool:
        """Tokens without text wait for the text that they become part of."""
        return bool(self.text) or (self.finish_reason is not None and not self.reported)

    def add(self, sampled: Sampled) -> None:
        self.num_tokens += 1
        self.cumulative_logprob += sampled.logprob
        self.token_ids.append(sampled.token_id)


class ScoreAssembly:
    def __init__(self, live: LiveRequest, tokenizer: Tokenizer) -> None:
        self._live = live
        self._tokenizer = tokenizer
        self._scores = [Score(len(text.encode())) for text in live.request.continuations]
        self._open = set(range(len(self._scores)))

    def add(self, event: Event) -> None:
        if isinstance(event, ScoredEvent):
            self._scores[event.sequence_index].tokens.extend(
                record_of(item, self._tokenizer) for item in event.scored
            )
        elif isinstance(event, DoneEvent):
            self._open.discard(event.sequence_index)

    @property
    def complete(self) -> bool:
        return not self._open

    def take(self) -> tuple[Answer, bool] | None:
        return None if self._open else (Scored(self._scores, Usage(self._live.num_tokens)), True)


class SingleAssembly:
    """One event is the answer: operations `next` and `embed`."""

    def __init__(self, live: LiveRequest, tokenizer: Tokenizer) -> None:
        self._usage = Usage(len(live.prompt))
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

    @property
    def complete(self) -> bool:
        return self._answer is not None

    def take(self) -> tuple[Answer, bool] | None:
        answer, self._answer = self._answer, None
        return None if answer is None else (answer, True)


def record_of(sampled: Sampled, tokenizer: Tokenizer) -> TokenRecord:
    top = tuple(TokenRecord(token, tokenizer.token_text(token), logprob) for token, logprob in sampled.top)
    return TokenRecord(sampled.token_id, tokenizer.token_text(sampled.token_id), sampled.logprob, top)
