"""The token ids that a model reads for a text, as in the engine, and the texts that it can read at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from export.checkpoint.config import ModelConfig
from runtime.contract import Kind
from runtime.manifest import Architecture, GoldenPrompt, Manifest, head_row

MOST_TRIED = 10_000  # tokens tried as texts, shortest first; a model can read most of those


@dataclass(frozen=True, slots=True)
class PromptReader:
    """A language model reads a text's own tokens, and needs room for one more token.

    A classifier reads the tokenizer's template, an nlu model the text's own tokens; see `head_row`.
    """

    tokenizer: Tokenizer
    kind: Kind
    architecture: Architecture
    nlu_echo: bool

    @classmethod
    def of(cls, tokenizer: Tokenizer, model: ModelConfig | Manifest) -> PromptReader:
        kind = model.kind if isinstance(model, Manifest) else model.head.kind
        return cls(tokenizer, kind, model.architecture, model.nlu_echo)

    def token_ids(self, prompt: GoldenPrompt) -> list[int]:
        """Empty where the engine refuses the text: it is too long, or the tokenizer leaves nothing of it."""
        template = self.kind is Kind.CLASSIFIER
        encoding = self.tokenizer.encode(prompt.text, prompt.text_pair, add_special_tokens=template)
        # The tokenizer's normalizer can remove all of a text.
        if not ({0, 1} if prompt.text_pair else {0}) <= set(encoding.sequence_ids):
            return []
        ids: list[int] = encoding.ids
        if self.kind is Kind.LM:
            return ids if len(ids) < self.architecture.context_length else []
        row = head_row(ids, self.kind, self.architecture, self.nlu_echo)
        # Padding takes room too: the engine measures a text before it cuts padding off.
        return row if max(len(ids), len(row)) <= self.architecture.context_length else []

    def shortest(self) -> Iterator[GoldenPrompt]:
        """Texts of one token that the model can read, for a vocabulary or a context that fits no sentence."""
        vocabulary = self.tokenizer.get_vocab(with_added_tokens=True)
        seen = set()
        for token in sorted(vocabulary, key=lambda token: (len(token), vocabulary[token]))[:MOST_TRIED]:
            # Bytes of an incomplete character would be encoded as other tokens.
            prompt = GoldenPrompt(self.tokenizer.decode([vocabulary[token]]).replace("\ufffd", ""))
            if prompt.text and prompt not in seen and self.token_ids(prompt):
                seen.add(prompt)
                yield prompt
