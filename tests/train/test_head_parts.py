"""Attention that starts by reading what is next to a token."""

import pytest
import torch
from transformers import GPT2Config, GPT2Model

from train.head_parts import BIDIRECTIONAL, NEIGHBOURS, NEIGHBOURS_BEFORE, look_at_neighbours


@pytest.mark.parametrize("attention", ["causal", BIDIRECTIONAL])
def test_heads_look_at_their_neighbours(attention: str) -> None:
    torch.manual_seed(0)
    body = GPT2Model(
        GPT2Config(n_positions=96, n_embd=96, n_layer=2, n_head=6, vocab_size=300, attention=attention)
    )
    look_at_neighbours(body)
    tokens = torch.arange(40)
    states = body.wte(tokens + 100) + body.wpe(tokens)
    distances = NEIGHBOURS if attention == BIDIRECTIONAL else NEIGHBOURS_BEFORE
    for block in body.h:
        query, key, _ = block.attn.c_attn(block.ln_1(states)).split(96, dim=1)
        for head, distance in enumerate(distances):
            part = slice(16 * head, 16 * (head + 1))
            found = (query[:, part] @ key[:, part].T).argmax(dim=1) - tokens
            assert (found[4:-4] == distance).float().mean() > 0.9
