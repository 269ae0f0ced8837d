"""What a model server would say: three tokens, scores by shared letters, one vector."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

from runtime.contract import Operation


async def scripted(
    text: str, parameters: Mapping[str, Any], operation: Operation
) -> AsyncIterator[dict[str, Any]]:
    """What the engine would say, for three tokens ` a`, ` b`, ` c`."""
    usage = {"prompt_tokens": len(text.split()), "completion_tokens": 0}
    if operation is Operation.NEXT:
        candidates = [
            {"token_id": number, "text": f" {number}", "probability": 0.5, "logprob": -0.69}
            for number in range(parameters["top_k"])
        ]
        yield {"candidates": candidates, "usage": usage}
    elif operation is Operation.EMBED:
        yield {"embedding": [0.6, 0.8], "usage": usage}
    elif operation is Operation.SCORE:
        yield {"scores": [scored(text, item) for item in parameters["continuations"]], "usage": usage}
    else:
        for details in generated(text, parameters):
            yield details


def refusing(error: Exception) -> Any:
    """A reply that fails before its first piece."""

    async def reply(*_: Any) -> AsyncIterator[dict[str, Any]]:
        for details in cast("list[dict[str, Any]]", []):
            yield details
        raise error

    return reply


def scored(prompt: str, continuation: str) -> dict[str, Any]:
    """Likelier the more of the continuation's letters the prompt has."""
    word = continuation.strip()
    logprob = -float(len(word)) + 2.0 * sum(letter in prompt for letter in word)
    token = {"token_id": 1, "text": continuation, "logprob": logprob}
    size = len(continuation.encode())
    return {"logprob": logprob, "num_tokens": 2, "num_bytes": size, "tokens": [token]}


def generated(text: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    words = [" a", " b", " c"][: parameters.get("max_tokens", 64)]
    count = parameters.get("n", 1)
    usage = {"prompt_tokens": len(text.split()), "completion_tokens": len(words) * count}
    last = {"usage": usage, "timings": {"queue_seconds": 0.0, "prefill_seconds": 0.1, "decode_seconds": 0.2}}
    echoed = [(text, None)] if parameters.get("echo") else []
    pieces = [*echoed, *((word, -0.5) for word in words)]

    def choice(index: int, part: list[tuple[str, float | None]], finish: str | None) -> dict[str, Any]:
        logprobs = None
        if parameters.get("logprobs") is not None:
            logprobs = [
                {"token_id": 1, "text": piece, "logprob": logprob,
                 "top": [] if logprob is None else [{"token_id": 2, "text": " z", "logprob": -0.1}]}
                for piece, logprob in part
            ]  # fmt: skip
        return {
            "index": index,
            "text": "".join(piece for piece, _ in part),
            "token_ids": [1] * len(part),
            "logprobs": logprobs,
            "finish_reason": finish,
        }

    if not parameters["stream"]:
        return [{"choices": [choice(index, pieces, "length") for index in range(count)], **last}]
    replies: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces):
        finish = "length" if number == len(pieces) - 1 else None
        choices = [choice(index, [piece], finish) for index in range(count)]
        replies.append({"choices": choices, "usage": None, "timings": None, **(last if finish else {})})
    return replies
