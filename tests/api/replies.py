"""What a model server would say: three tokens, scores by shared letters, one vector."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from itertools import accumulate
from typing import Any, cast

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
    Timings,
    Tokenized,
    TokenLogprob,
    Usage,
)
from runtime.receipts import Receipt, ReceiptChoice

RECEIPT = Receipt(
    "1.2.3", "sha256:" + "a" * 64, "int8", "avx2", "any-processor", [1, 2], {"seed": 5, "max_tokens": 3},
    [ReceiptChoice(0, [1, 1, 1], "b" * 64, FinishReason.LENGTH)],
)  # fmt: skip


async def scripted(text: str, parameters: Mapping[str, Any], operation: Operation) -> AsyncIterator[Answer]:
    """What the engine would say, for three tokens ` a`, ` b`, ` c`."""
    usage = Usage.of(len(text.split()))
    if operation is Operation.NEXT:
        listed = [Candidate(number, f" {number}", 0.5, -0.69) for number in range(parameters["top_k"])]
        yield Candidates(listed, usage)
    elif operation is Operation.TOKENIZE:
        words = text.split()
        ids = [int(word) if word.isascii() and word.isdigit() else len(word) for word in words]
        yield Tokenized(text, ids, words, "<|endoftext|>")
    elif operation is Operation.EMBED:
        yield Embedded([0.6, 0.8], usage)
    elif operation is Operation.SCORE:
        yield Scored([scored(text, item) for item in parameters["continuations"]], usage)
    else:
        for piece in generated(text, parameters):
            yield piece


def refusing(error: Exception) -> Any:
    """A reply that fails before its first piece."""

    async def reply(*_: Any) -> AsyncIterator[Answer]:
        for piece in cast("list[Answer]", []):
            yield piece
        raise error

    return reply


def scored(prompt: str, continuation: str) -> Score:
    """Two tokens; likelier the more of the continuation's letters the prompt has."""
    word = continuation.strip()
    logprob = -float(len(word)) + 2.0 * sum(letter in prompt for letter in word)
    tokens = [ScoredToken(1, continuation, logprob), ScoredToken(2, "", 0.0)]
    return Score(len(continuation.encode()), tokens)


def generated(text: str, parameters: Mapping[str, Any]) -> list[Generated]:
    words = [" a", " b", " c"][: parameters.get("max_tokens", 64)]
    count = parameters.get("n", 1)
    usage = Usage.of(len(text.split()), len(words) * count)
    timings = Timings(0.0, 0.1, 0.2)
    echoed = [(text, None)] if parameters.get("echo") else []
    pieces = [*echoed, *((word, -0.5) for word in words)]
    begins = dict(zip(pieces, accumulate((len(piece) for piece, _ in pieces), initial=0), strict=False))

    def choice(index: int, part: list[tuple[str, float | None]], finish: FinishReason | None) -> Choice:
        logprobs = None
        if parameters.get("logprobs") is not None:
            logprobs = [
                TokenLogprob(
                    1,
                    piece,
                    logprob,
                    () if logprob is None else (ScoredToken(2, " z", -0.1),),
                    begins[piece, logprob],
                )
                for piece, logprob in part
            ]
        return Choice(index, "".join(piece for piece, _ in part), [1] * len(part), logprobs, finish)

    receipt = RECEIPT if parameters.get("receipt") else None
    if not parameters["stream"]:
        choices = [choice(index, pieces, FinishReason.LENGTH) for index in range(count)]
        return [Generated(usage.prompt_tokens, choices, usage, timings, receipt=receipt)]
    replies: list[Generated] = []
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        choices = [choice(index, [piece], FinishReason.LENGTH if last else None) for index in range(count)]
        piece_of = Generated(usage.prompt_tokens, choices, None, None)
        end = Generated(usage.prompt_tokens, choices, usage, timings, receipt=receipt)
        replies.append(end if last else piece_of)
    return replies
