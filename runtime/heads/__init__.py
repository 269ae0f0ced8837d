"""Heads: classification, and intents with slots."""

from runtime.heads.model import HeadAnswer, HeadModel
from runtime.heads.reader import HeadInput

__all__ = ["HeadAnswer", "HeadInput", "HeadModel"]
