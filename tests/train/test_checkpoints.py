"""The bundled checkpoints: size, layout, loading with transformers, and a figure on a small fixed subset."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from export.checkpoint.config import read_config
from train.checkpoint import MAX_BYTES_OF_ALL_MODELS, folder_bytes
from train.data import LabelRow
from train.evaluate import perplexity
from train.heads import class_logits, encode
from train.joint_nlu import load_joint
from train.joint_training import joint_figures
from train.language_model import negative_log_likelihood
from train.recipes.classifier import load_classifier
from train.recipes.corpus import read_fairytales
from train.recipes.sets import read_snips, read_snli, read_sst2
from train.tokenizer import END_OF_TEXT_ID

ARCHITECTURES = {
    "mini-lm": "GPT2LMHeadModel",
    "mini-nlu": "GPT2ForJointNlu",
    "mini-sentiment": "GPT2ForSequenceClassification",
    "mini-nli": "GPT2ForSequenceClassification",
}


def test_all_models_together_stay_small(models: Path) -> None:
    assert sum(folder_bytes(models / name) for name in ARCHITECTURES) <= MAX_BYTES_OF_ALL_MODELS


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_folder_is_complete(models: Path, name: str) -> None:
    config = json.loads((models / name / "config.json").read_text("utf-8"))
    assert config["architectures"] == [ARCHITECTURES[name]]
    assert config["n_embd"] // config["n_head"] in (32, 64)
    tokenizer = Tokenizer.from_file(str(models / name / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    assert tokenizer.token_to_id("<|endoftext|>") == config["eos_token_id"] == config["bos_token_id"]
    card = (models / name / "README.md").read_text("utf-8")
    assert card.startswith("---\n")
    with safe_open(models / name / "model.safetensors", "pt") as tensors:
        names = set(tensors.keys())
        assert {tensors.get_slice(key).get_dtype() for key in names} == {"F16"}
    assert "transformer.wte.weight" in names
    assert "lm_head.weight" not in names


def test_language_model_tokenizer_is_plain(models: Path) -> None:
    tokenizer = Tokenizer.from_file(str(models / "mini-lm" / "tokenizer.json"))
    text = 'Once upon a time, "Lily" said:\n  ünïcode  twice.'
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert END_OF_TEXT_ID not in tokenizer.encode(text).ids


def test_language_model_brings_its_sampling(models: Path) -> None:
    config = read_config(models / "mini-lm")
    assert (config.eos_token_id, config.sampling) == (END_OF_TEXT_ID, {"temperature": 0.7, "top_p": 0.9})
    assert config.notes == ()


def test_language_model_reads_a_story(models: Path, data: Path) -> None:
    story = min(read_fairytales(data, "test"), key=len)
    model = GPT2LMHeadModel.from_pretrained(models / "mini-lm", dtype=torch.float32)
    tokens = Tokenizer.from_file(str(models / "mini-lm" / "tokenizer.json")).encode(story).ids
    nats, count = negative_log_likelihood(model, [tokens], END_OF_TEXT_ID)
    assert perplexity(nats, count, [story]).per_token < 90


def test_joint_nlu_on_fixed_utterances(models: Path, data: Path) -> None:
    found = joint_figures(load_joint(models / "mini-nlu"), read_snips(data, "test")[:150])
    assert found["intent accuracy"] >= 0.96
    assert found["slot F1"] >= 0.9


def test_sentiment_on_fixed_sentences(models: Path, data: Path) -> None:
    assert load_classifier(models / "mini-sentiment").accuracy(read_sst2(data, "test")[:300]) >= 0.78


def test_inference_on_fixed_pairs(models: Path, data: Path) -> None:
    assert load_classifier(models / "mini-nli").accuracy(read_snli(data, "test")[:400]) >= 0.63


def test_transformers_alone_reads_the_closing_token(models: Path) -> None:
    texts = ["A man is playing a guitar.", "Nobody sings", "The dog runs across a field, \u00fcber-fast"]
    rows = [LabelRow(1, text, None, "") for text in texts]
    loaded = load_classifier(models / "mini-sentiment")
    loaded.model.ngrams = None  # transformers does not know a bag of n-grams
    expected = class_logits(loaded.model, encode(loaded.tokenizer, rows))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(models / "mini-sentiment")
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    together = loaded.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(together, expected, atol=1e-4, rtol=1e-4)
    alone = torch.cat([loaded.model(torch.tensor([ids])).logits for ids in encode(loaded.tokenizer, rows)])
    torch.testing.assert_close(alone, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "label"),
    [("A wonderful, moving film!", "positive"), ("A dull, lifeless mess of a movie.", "negative")],
)
def test_sentiment_of_typed_sentences(models: Path, text: str, label: str) -> None:
    loaded = load_classifier(models / "mini-sentiment")
    logits = loaded.model(torch.tensor([loaded.tokenizer.encode(text).ids])).logits[0]
    assert loaded.model.config.id2label[int(logits.argmax())] == label
