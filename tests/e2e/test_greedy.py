"""Served fp32 against `transformers` on torch, token for token; batched against alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from tests.e2e.appliance import ROOT, Appliance
from tests.e2e.test_lifecycle import packed, upload

NEW_TOKENS = 32
OPENINGS = [
    "Once upon a time", "The king said", "In the dark forest", "A little girl named Lily", 
    "The dog and the cat",
    "One day, the sun", "There was an old woman who", "The dragon opened", "My dear friend,", 
    "He ran to the river and",
    "The princess", "It was raining, so", "Tom wanted to", "When the ship came home", "The wolf",
    "They were very happy",
    "At the end of the road", "Nobody knew", "\"Come here,\" said", "The moon was bright",
]  # fmt: skip


def scratch_checkpoint(folder: Path) -> Path:
    """A second language model: other shape, head size and scaling, mini-lm's tokenizer, weights by seed.

    Its generation_config.json has a penalty, for requests that set none.
    """
    torch.manual_seed(11)
    tokenizer = (ROOT / "models" / "mini-lm" / "tokenizer.json").read_text()
    config = GPT2Config(
        vocab_size=Tokenizer.from_str(tokenizer).get_vocab_size(),
        n_embd=96, n_layer=3, n_head=3, n_positions=128, initializer_range=0.3,
        scale_attn_by_inverse_layer_idx=True, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    model.generation_config.repetition_penalty = 1.5
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer)
    return folder


@pytest.fixture(scope="module", params=["mini-lm", "scratch"])
def served(
    appliance: Appliance, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """A model deployed in fp32, and its checkpoint."""
    name = f"greedy-{request.param}"
    if request.param == "scratch":
        checkpoint = scratch_checkpoint(tmp_path_factory.mktemp("scratch"))
        archive = packed(checkpoint)
    else:  # what the appliance made of it at its start
        checkpoint = ROOT / "models" / "mini-lm"
        archive = appliance.http.get("/v1/models/mini-lm/versions/1/archive").content
    task = upload(appliance, name, archive, deploy="true", precision="fp32").json()["task"]
    assert appliance.finished_task(task)["state"] == "done"
    yield name, checkpoint
    appliance.http.delete(f"/v1/models/{name}", params={"force": True})


def body(model: str, prompt: str) -> dict[str, object]:
    return {"model": model, "prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0, "logprobs": 0}


def token_ids(appliance: Appliance, model: str, prompt: str) -> list[int]:
    answer = appliance.post("/v1/generate", body(model, prompt))
    assert answer["precision"] == "fp32"
    return [token["token_id"] for token in answer["choices"][0]["logprobs"]]


def test_tokens_equal_those_of_transformers(appliance: Appliance, served: tuple[str, Path]) -> None:
    name, checkpoint = served
    model = GPT2LMHeadModel.from_pretrained(
        checkpoint,
        dtype=torch.float32,
        attn_implementation="eager",  # sdpa drops scale_attn_by_inverse_layer_idx
    ).eval()
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    for prompt in OPENINGS:
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        with torch.no_grad():
            reference = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                temperature=None,
                top_p=None,
                pad_token_id=0,
            )
        expected = [
            token for token in reference[0, ids.shape[1] :].tolist() if token != model.config.eos_token_id
        ]
        got = [token for token in token_ids(appliance, name, prompt) if token != model.config.eos_token_id]
        assert got == expected, prompt


def test_batched_and_alone_give_the_same_tokens(appliance: Appliance, served: tuple[str, Path]) -> None:
    name, _ = served
    alone = [token_ids(appliance, name, prompt) for prompt in OPENINGS]
    with ThreadPoolExecutor(len(OPENINGS)) as pool:
        together = list(pool.map(lambda prompt: token_ids(appliance, name, prompt), OPENINGS))
    assert together == alone
