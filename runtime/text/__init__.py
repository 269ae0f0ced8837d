"""Text: the tokenizer and the stream of text out of generated tokens."""

from runtime.text.stream import TextStream
from runtime.text.tokenizer import Tokenizer, open_tokenizer

__all__ = ["TextStream", "Tokenizer", "open_tokenizer"]
