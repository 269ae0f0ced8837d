"""Continuing a text, for the samples on a card."""

import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel


@torch.no_grad()
def continue_text(
    model: GPT2LMHeadModel,
    tokenizer: Tokenizer,
    prompt: str,
    tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    seed: int = 0,
) -> str:
    """The continuation of `prompt` alone: greedy at temperature 0, else sampled among `top_k`."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    ids = tokenizer.encode(prompt).ids
    for _ in range(tokens):
        logits = model(torch.tensor([ids[-model.config.n_positions :]])).logits[0, -1].float()
        if temperature:
            best = logits.topk(top_k)
            drawn = torch.multinomial((best.values / temperature).softmax(dim=-1), 1, generator=generator)
            token = int(best.indices[drawn])
        else:
            token = int(logits.argmax())
        if token == model.config.eos_token_id:
            break
        ids.append(token)
    text: str = tokenizer.decode(ids)
    return text[len(prompt) :]
