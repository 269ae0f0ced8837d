"""Text: the tokenizer, the text stream of generated tokens, and the offset of each token in it."""

from runtime.text.stream import TextOffsets, TextStream
from runtime.text.tokenizer import Tokenizer, open_tokenizer

__all__ = ["TextOffsets", "TextStream", "Tokenizer", "open_tokenizer"]
