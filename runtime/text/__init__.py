"""Text: the tokenizer, the text stream of generated tokens, and the offset of each token in it."""

from runtime.text.stream import TextOffsets, TextStream
from runtime.text.tokenizer import Encoders, Tokenizer, as_served, open_tokenizer

__all__ = ["Encoders", "TextOffsets", "TextStream", "Tokenizer", "as_served", "open_tokenizer"]
