"""Miniature models and sentences for the training tests."""

from tokenizers import Tokenizer
from transformers import GPT2Config

from train.language_model import make_config
from train.tokenizer import END_OF_TEXT_ID, train_tokenizer

SENTENCES = [
    "The fox said to the bear that the river was cold.",
    "The bear said to the fox that the river was warm.",
    "A little girl gave the fox a red apple.",
    "A little boy gave the bear a green apple.",
]


def tiny_tokenizer(lowercase: bool = False) -> Tokenizer:
    return train_tokenizer(SENTENCES, 300, lowercase)


def tiny_config(tokenizer: Tokenizer) -> GPT2Config:
    return make_config(
        tokenizer.get_vocab_size(), layers=2, width=64, end_of_text=END_OF_TEXT_ID, positions=128
    )
