"""The offset of each token in a text."""

from __future__ import annotations

import codecs

from runtime.text.tokenizer import Tokenizer


class TextOffsets:
    """Counts the characters of a text, as `TextStream` makes it, token by token.

    Tokens that are pieces of one character begin where the character begins. A token without text begins
    where the next token begins.
    """

    def __init__(self, tokenizer: Tokenizer, begin: int = 0) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._complete = begin  # characters

    def next(self, token_id: int) -> int:
        """Where the next token of the text begins."""
        content = self._tokenizer.token_bytes(token_id)
        if not content:
            return self._complete
        # The first byte belongs to the last character that began, whether it completes that one or not.
        self._complete += len(self._decoder.decode(content[:1]))
        incomplete = self._decoder.getstate()[0].decode("utf-8", "replace")
        offset = self._complete + len(incomplete) - 1
        self._complete += len(self._decoder.decode(content[1:]))
        return offset
