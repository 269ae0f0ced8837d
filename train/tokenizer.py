"""Byte-level BPE tokenizers like GPT-2's, trained on our own text."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
# Byte 0xFF, which no UTF-8 text contains, in the byte-level alphabet.
PADDING = "\u00ff"


def train_tokenizer(texts: Iterable[str], vocab_size: int, lowercase: bool = False) -> Tokenizer:
    """Learn a byte-level BPE vocabulary: id 0 is `<|endoftext|>`, then 256 bytes, then merges in order."""
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def end_with_end_of_text(tokenizer: Tokenizer, end: int = END_OF_TEXT_ID) -> None:
    """Append the token `end` to one text, and put it after both halves of a pair."""
    name = tokenizer.id_to_token(end)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {name}",
        pair=f"$A {name} $B:1 {name}:1",
        special_tokens=[(name, end)],
    )
