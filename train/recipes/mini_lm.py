"""mini-lm: a small story-telling GPT-2, trained from random weights on children's prose."""

import logging
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from train.cards import FAIRYTALES, GUTENBERG, TINYSTORIES, Card, Figure
from train.checkpoint import save_checkpoint
from train.evaluate import Perplexity, perplexity, repeats
from train.language_model import (
    PackedMixture,
    Stage,
    continue_text,
    make_config,
    negative_log_likelihood,
    train_language_model,
)
from train.ngram import KneserNey
from train.optimization import Schedule
from train.recipes.command import Recipe, main, working_folder
from train.recipes.corpus import read_corpus, read_fairytales, read_tinystories
from train.tokenizer import END_OF_TEXT_ID, train_tokenizer
from train.trainer import Loop

log = logging.getLogger(__name__)

SEED = 20
VOCABULARY = 4096
LAYERS = 4
WIDTH = 192
LENGTH = 512
TOKENS = 4096  # per step
STEPS, COOLDOWN = 1800, 600
SCHEDULE = Schedule(STEPS, horizon=4000, cooldown=COOLDOWN)

# Shares of fairy tales, TinyStories, children's books and novels; novels widen the vocabulary at first.
STAGES = (
    Stage(STEPS - COOLDOWN, 128, (0.28, 0.50, 0.11, 0.11)),
    Stage(STEPS, LENGTH, (0.30, 0.60, 0.10, 0.00)),
)
# Fairy tales of FairytaleQA's val split that choose the step, beside the held-out stories of TinyStories.
CHOOSING = 6

# How looping is measured: words that a greedy continuation starts from, and its tokens.
OPENING_WORDS = 8
CONTINUED = 60

PROMPTS = (
    "Once upon a time, there was a little",
    "Once upon a time, there was a little girl named Lily. She",
    "The king said to his youngest son,",
    '"Where are you going?" asked the fox.',
)


def train(data: Path, out: Path) -> None:
    """Train and write the checkpoint with the lowest held-out loss; continues where a killed run ended."""
    torch.manual_seed(SEED)
    generator = np.random.default_rng(SEED)
    corpus = read_corpus(data)
    tokenizer = train_tokenizer(corpus.documents(), VOCABULARY)
    sources = []
    for documents in (corpus.fairytales, corpus.tinystories, corpus.children, corpus.novels):
        encodings = tokenizer.encode_batch([documents[i] for i in generator.permutation(len(documents))])
        tokens = [token for encoding in encodings for token in (END_OF_TEXT_ID, *encoding.ids)]
        log.info("source of %d documents, %d tokens", len(documents), len(tokens))
        sources.append(tokens)
    config = make_config(VOCABULARY, LAYERS, WIDTH, END_OF_TEXT_ID, LENGTH, dropout=0.0)
    model = GPT2LMHeadModel(config)
    held_out = {
        "fairy tales": _encode(tokenizer, read_fairytales(data, "val")[:CHOOSING]),
        "TinyStories": _encode(tokenizer, read_tinystories(data, held_out=True)),
    }

    def loss_per_token() -> dict[str, float]:
        sums = {
            name: negative_log_likelihood(model, texts, END_OF_TEXT_ID) for name, texts in held_out.items()
        }
        return {name: nats / count for name, (nats, count) in sums.items()}

    loop = Loop(working_folder(out), SCHEDULE, evaluate_every=300, save_every=50, log_every=25, seed=SEED)
    train_language_model(model, PackedMixture(sources, STAGES, TOKENS, SEED), loss_per_token, loop)
    save_checkpoint(out, model, config, tokenizer, architectures=["GPT2LMHeadModel"])


def _encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def model_perplexity(folder: Path, texts: list[str]) -> Perplexity:
    """The saved checkpoint's perplexity on `texts`."""
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    nats, count = negative_log_likelihood(model, tokens, END_OF_TEXT_ID)
    return perplexity(nats, count, texts)


def baseline_perplexity(data: Path, folder: Path) -> tuple[int, Perplexity]:
    """The n-gram order of 3, 4 and 5 that is best on val, and that baseline's perplexity on test."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def tokens(texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch(texts)]

    training = tokens(read_corpus(data).documents())
    held_out, test = read_fairytales(data, "val"), read_fairytales(data, "test")
    results = []
    for order in (3, 4, 5):
        baseline = KneserNey(training, order, tokenizer.get_vocab_size(), END_OF_TEXT_ID)
        chosen_by = perplexity(*baseline.negative_log_likelihood(tokens(held_out)), held_out)
        on_test = perplexity(*baseline.negative_log_likelihood(tokens(test)), test)
        log.info("order %d: val %.2f", order, chosen_by.per_token)
        results.append((chosen_by.per_token, order, on_test))
    _, order, on_test = min(results, key=lambda result: result[0])
    return order, on_test


def opening(story: str) -> str:
    """The first words of a held-out story, which a continuation starts from."""
    return " ".join(story.split()[:OPENING_WORDS])


def looping_share(folder: Path, openings: list[str]) -> float:
    """Share of greedy continuations, each of CONTINUED tokens, in which four words in a row occur again."""
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return sum(repeats(continue_text(model, tokenizer, text, CONTINUED)) for text in openings) / len(openings)


def describe(data: Path, folder: Path) -> None:
    """Measure the checkpoint on FairytaleQA's test split beside the baseline, and write the card."""
    test = read_fairytales(data, "test")
    ours = model_perplexity(folder, test)
    held_out = model_perplexity(folder, read_fairytales(data, "val"))
    order, baseline = baseline_perplexity(data, folder)
    how = "FairytaleQA test, 23 stories, windows of 512 tokens overlapping by half"
    against = f"the same tokens by an interpolated modified Kneser-Ney {order}-gram of the same training text"
    figures = [
        Figure("perplexity per token", f"{ours.per_token:.1f}", f"{how}, {ours.tokens} tokens"),
        Figure("perplexity per token, baseline", f"{baseline.per_token:.1f}", against),
        Figure("perplexity per word", f"{ours.per_word:.1f}", f"{how}, {ours.words} words"),
        Figure("perplexity per word, baseline", f"{baseline.per_word:.1f}", against),
        Figure("bits per byte", f"{ours.bits_per_byte:.3f}", f"{how}, {ours.bytes} bytes"),
        Figure("bits per byte, baseline", f"{baseline.bits_per_byte:.3f}", against),
        Figure(
            "perplexity per token, val",
            f"{held_out.per_token:.1f}",
            "FairytaleQA val, used to choose the step",
        ),
    ]
    for figure in figures:
        log.info("%s: %s", figure.what, figure.value)
    make_card(figures, write_samples(folder)).write(folder)


def write_samples(folder: Path) -> str:
    """Real continuations as Markdown: greedy, then sampled with a fixed seed."""
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    blocks = []
    for prompt in PROMPTS:
        greedy = continue_text(model, tokenizer, prompt, tokens=60)
        sampled = continue_text(model, tokenizer, prompt, tokens=100, temperature=0.8, top_k=40, seed=SEED)
        blocks.append(f"**{prompt}**\n\ngreedy: {greedy.strip()}\n\nsampled: {sampled.strip()}")
    title = f"Greedy, and sampled at temperature 0.8 among the top 40 with seed {SEED}; none picked by hand."
    return "\n\n".join([title, *blocks])


def make_card(figures: list[Figure], samples: str) -> Card:
    """The card around the measured figures and samples."""
    return Card(
        name="mini-lm",
        pipeline_tag="text-generation",
        licence="apache-2.0",
        summary="A small GPT-2 that continues children's stories and fairy tales in English.",
        shape=f"GPT2LMHeadModel: {LAYERS} layers, {WIDTH} wide, {WIDTH // 64} heads, context {LENGTH}, "
        f"own byte-level BPE of {VOCABULARY} tokens (id {END_OF_TEXT_ID} is `<|endoftext|>`), tied head.",
        data=(TINYSTORIES, FAIRYTALES, GUTENBERG),
        recipe=f"From random weights: {SCHEDULE.steps} steps of {TOKENS} tokens, Muon for the matrices and "
        "AdamW for the rest, warm-up, cosine decay and a linear cool-down to zero over the last "
        f"{SCHEDULE.cooldown} steps, no dropout, bf16 autocast. Rows have {STAGES[0].length} tokens until "
        f"the cool-down and {STAGES[1].length} in it, and the novels leave the mixture then. The weights "
        "with the lowest held-out loss are kept.",
        command="python -m train.recipes.mini_lm --data DATA --out models/mini-lm",
        figures=figures,
        sections={"Samples": samples},
        limits=(
            "It knows the world of old tales and toddlers' stories only; it states no facts.",
            "Sentences are English but lose their thread; greedy decoding falls into loops.",
            "The old books carry the views of their time.",
        ),
    )


RECIPE = Recipe("mini-lm", train, describe)

if __name__ == "__main__":
    main(RECIPE, __doc__)
