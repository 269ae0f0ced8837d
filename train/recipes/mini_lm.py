"""mini-lm: a small story-telling GPT-2, trained from random weights on children's prose."""

import json
import logging
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from train.cards import FAIRYTALES, GUTENBERG, TINYSTORIES, Card, Figure
from train.checkpoint import save_checkpoint, save_sampling
from train.evaluate import Perplexity, perplexity, repeats, repetition, word_sequences
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
from train.recipes.corpus import Corpus, read_corpus, read_fairytales, read_tinystories
from train.tokenizer import END_OF_TEXT_ID, train_tokenizer
from train.trainer import METRICS, Loop

log = logging.getLogger(__name__)

SEED = 20
VOCABULARY = 4096
LAYERS = 4
WIDTH = 192
LENGTH = 512
TOKENS = 4096  # per step
STEPS, COOLDOWN = 4200, 1100
SCHEDULE = Schedule(STEPS, horizon=8000, cooldown=COOLDOWN)

# Shares of fairy tales, TinyStories, children's books and novels; novels widen the vocabulary at first. Loops
# are unlearned in the cool-down.
STAGES = (
    Stage(STEPS - COOLDOWN, 128, (0.28, 0.54, 0.09, 0.09)),
    Stage(STEPS, LENGTH, (0.30, 0.64, 0.06, 0.00), loops=0.25),
)
SAMPLING = {"temperature": 0.7, "top_p": 0.9}
PASSAGE_ENDS = set(".,;:!?")
# Fairy tales of FairytaleQA's val split that choose the step, beside the held-out stories of TinyStories.
CHOOSING = 6

# How looping is measured: words that a greedy continuation starts from, and its tokens.
OPENING_WORDS = 8
CONTINUED = 60
# The weights before: texts that loop, and words that are part of a repetition.
BEFORE = {"FairytaleQA": ("87 %", "30.3 %"), "TinyStories": ("86 %", "13.5 %")}
# Words in a row that count as copied.
COPIED = 8

PROMPTS = (
    "Once upon a time, there was a little",
    "Once upon a time, there was a little girl named Lily. She",
    "The king said to his youngest son,",
    '"Where are you going?" asked the fox.',
)


def train(data: Path, out: Path) -> None:
    """Train and write the checkpoint with the lowest held-out loss; continues where a killed run ended."""
    torch.manual_seed(SEED)
    corpus = read_corpus(data)
    tokenizer = train_tokenizer(corpus.documents(), VOCABULARY)
    config = make_config(VOCABULARY, LAYERS, WIDTH, END_OF_TEXT_ID, LENGTH, dropout=0.0)
    # Written out, attention over short rows trains faster on a CPU than the fused one.
    config._attn_implementation = "eager"
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

    ends = [token for text, token in tokenizer.get_vocab().items() if PASSAGE_ENDS & set(text)]
    batches = PackedMixture(_sources(corpus, tokenizer), STAGES, TOKENS, SEED, ends)
    loop = Loop(working_folder(out), SCHEDULE, evaluate_every=300, save_every=50, log_every=25, seed=SEED)
    train_language_model(model, batches, loss_per_token, loop)
    save_checkpoint(out, model, config, tokenizer, architectures=["GPT2LMHeadModel"])
    save_sampling(out, config, **SAMPLING)


def _sources(corpus: Corpus, tokenizer: Tokenizer) -> list[list[int]]:
    """The tokens of each source, its documents in random order, in the order of the shares of a Stage."""
    generator = np.random.default_rng(SEED)
    sources = []
    for documents in (corpus.fairytales, corpus.tinystories, corpus.children, corpus.novels):
        shuffled = [documents[index] for index in generator.permutation(len(documents))]
        sources.append([token for ids in _encode(tokenizer, shuffled) for token in (END_OF_TEXT_ID, *ids)])
        log.info("source of %d documents, %d tokens", len(documents), len(sources[-1]))
    return sources


def _encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def model_perplexity(folder: Path, texts: list[str]) -> Perplexity:
    """The saved checkpoint's perplexity on `texts`."""
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    nats, count = negative_log_likelihood(model, tokens, END_OF_TEXT_ID)
    return perplexity(nats, count, texts)


def baseline_perplexity(
    data: Path, folder: Path, tests: dict[str, list[str]]
) -> tuple[int, list[Perplexity]]:
    """The n-gram order of 3, 4 and 5 that is best on val, and its perplexity on each of `tests`."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    training = _encode(tokenizer, read_corpus(data).documents())
    held_out = read_fairytales(data, "val")
    results = []
    for order in (3, 4, 5):
        baseline = KneserNey(training, order, tokenizer.get_vocab_size(), END_OF_TEXT_ID)

        def score(texts: list[str], baseline: KneserNey = baseline) -> Perplexity:
            return perplexity(*baseline.negative_log_likelihood(_encode(tokenizer, texts)), texts)

        on_val = score(held_out).per_token
        log.info("order %d: val %.2f", order, on_val)
        results.append((on_val, order, [score(texts) for texts in tests.values()]))
    _, order, on_tests = min(results, key=lambda result: result[0])
    return order, on_tests


def continuations(folder: Path, stories: list[str]) -> list[str]:
    """Greedy continuations of CONTINUED tokens, each of the first OPENING_WORDS words of a held-out story."""
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    openings = [" ".join(story.split()[:OPENING_WORDS]) for story in stories]
    return [continue_text(model, tokenizer, text, CONTINUED) for text in openings]


def copied_share(texts: list[str], training: list[str]) -> float:
    """Share of the sequences of COPIED words in `texts` that are in the training text as well."""
    known = {hash(gram) for document in training for gram in word_sequences(document, COPIED)}
    wanted = [hash(gram) for text in texts for gram in word_sequences(text, COPIED)]
    return sum(gram in known for gram in wanted) / max(1, len(wanted))


def text_figures(data: Path, folder: Path) -> list[Figure]:
    """How often greedy text repeats itself, and how much of it is copied from the training text."""
    figures, written = [], []
    for name, stories in _tests(data).items():
        texts = continuations(folder, stories)
        written.extend(texts)
        loops, repeated = BEFORE[name]
        how = f"in {CONTINUED} tokens after the first {OPENING_WORDS} words of {len(texts)} held-out stories"
        share = sum(map(repeats, texts)) / len(texts)
        figures += [
            Figure(
                f"repetition in greedy text, {name}",
                f"{repetition(texts):.1%}",
                f"four words in a row that came before {how} (seq-rep-4); {repeated} before this training",
            ),
            Figure(
                f"greedy texts with a repetition, {name}",
                f"{share:.0%}",
                f"four words come twice {how}; {loops} before this training",
            ),
        ]
    copied = f"{copied_share(written, read_corpus(data).documents()):.0%}"
    how = f"sequences of {COPIED} words of these continuations that are in the training text"
    return [*figures, Figure("copied greedy text", copied, how)]


def _tests(data: Path) -> dict[str, list[str]]:
    return {
        "FairytaleQA": read_fairytales(data, "test"),
        "TinyStories": read_tinystories(data, held_out=True),
    }


def describe(data: Path, folder: Path) -> None:
    """Measure the checkpoint on held-out stories beside the baseline, and write the card."""
    tests = _tests(data)
    order, baselines = baseline_perplexity(data, folder, tests)
    figures = []
    for (name, texts), baseline in zip(tests.items(), baselines, strict=True):
        ours = model_perplexity(folder, texts)
        how = f"{name}, {len(texts)} held-out stories, windows of {LENGTH} tokens overlapping by half, "
        against = (
            f"an interpolated modified Kneser-Ney {order}-gram of the same training text: "
            f"{baseline.per_token:.1f} a token, {baseline.bits_per_byte:.3f} bits per byte"
        )
        figures += [
            Figure(f"perplexity per token, {name}", f"{ours.per_token:.1f}", f"{how}{ours.tokens} tokens"),
            Figure(f"perplexity per word, {name}", f"{ours.per_word:.1f}", f"{how}{ours.words} words"),
            Figure(f"bits per byte, {name}", f"{ours.bits_per_byte:.3f}", f"{how}{ours.bytes} bytes"),
            Figure(f"baseline, {name}", f"{baseline.per_word:.1f} a word", against),
        ]
    figures += text_figures(data, folder)
    for figure in figures:
        log.info("%s: %s", figure.what, figure.value)
    make_card(figures, write_samples(folder), time_spent(working_folder(folder))).write(folder)


def time_spent(run: Path) -> str:
    """How long the run in this folder took, as a sentence; empty where there is none."""
    path = run / METRICS
    if not path.exists():
        return ""
    last = json.loads(path.read_text("utf-8").splitlines()[-1])
    hours = [last[name] / 3600 for name in ("cpu_seconds", "seconds")]
    return (
        f" It took {hours[0]:.2f} hours of one thread's time, {hours[1]:.2f} hours by the clock on a machine "
        f"that did other work too ({torch.cpu.get_capabilities()['cpu_name']}, bf16)."
    )


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


def make_card(figures: list[Figure], samples: str, spent: str) -> Card:
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
        f"the cool-down and {STAGES[1].length} in it, and the novels leave the mixture then. In the "
        f"cool-down {STAGES[1].loops:.0%} of the rows repeat one of their passages to their end, and learn "
        "to make it less likely each time, against loops (arXiv 2206.02369). The weights with the lowest "
        f"held-out loss are kept.{spent} The bundled weights come from this one run. It was killed after "
        "step 1,000 and continued; the number of steps was chosen then, which changes nothing before it.",
        command="python -m train.recipes.mini_lm --data DATA --out models/mini-lm",
        figures=figures,
        sections={"Samples": samples},
        limits=(
            "It knows the world of old tales and toddlers' stories only; it states no facts.",
            "Sentences are English but lose their thread after a few. Greedy text still comes back to what "
            "it said; temperature 0.7 with top_p 0.9, the default in generation_config.json, reads better.",
            "The old books carry the views of their time.",
        ),
    )


RECIPE = Recipe("mini-lm", train, describe)

if __name__ == "__main__":
    main(RECIPE, __doc__)
