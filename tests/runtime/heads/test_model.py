"""Heads against torch: the same scores, labels and slots, alone and in a batch."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.contract import Variant
from runtime.errors import ModelError, RequestFault
from runtime.heads import HeadAnswer, HeadInput, HeadModel
from runtime.heads.model import MOST_RUN_TOKENS, RUN_TOKENS, batches
from runtime.heads.slots import OUTSIDE, TagRules, split_words
from runtime.manifest import Manifest
from runtime.messages import Slot
from runtime.session import open_session
from tests.runtime.heads import checkpoints
from tests.runtime.heads.checkpoints import CONTEXT, INTENTS, SLOTS, Tiny

TEXTS = [
    "play the new song by the band",
    "Play",
    "  what's  the weather in New York, please?",
    "caf\u00e9 \U0001f600\U0001f600 na\u00efve \u4f60\u597d",
    "a",
    "the band in york tonight " * 2,
    "<|endoftext|>",
]

BUILDERS: dict[str, Callable[[Path], Tiny]] = {
    "classifier": checkpoints.classifier,
    "pad is a letter": lambda folder: checkpoints.classifier(
        folder, padding=checkpoints.EXCLAMATION_MARK, template=False
    ),
    "pad is eos": lambda folder: checkpoints.classifier(folder, padding=0),
    "multi_label": lambda folder: checkpoints.classifier(folder, 4, "multi_label_classification"),
    "regression": lambda folder: checkpoints.classifier(folder, 1, "regression"),
    "tokens": checkpoints.token_classifier,
    "joint": lambda folder: checkpoints.joint(folder, echo=False),
    "echo": lambda folder: checkpoints.joint(folder, echo=True),
}


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    built: dict[str, Tiny] = {}

    def once(name: str) -> Tiny:
        if name not in built:
            built[name] = BUILDERS[name](tmp_path_factory.mktemp(name))
        return built[name]

    return once


def load(tiny: Tiny, variant: Variant = Variant.FP32) -> HeadModel:
    return HeadModel.load(tiny.artifact, variant, threads=1)


def answer(model: HeadModel, text: str, pair: str | None = None) -> HeadAnswer:
    [found] = model.run([HeadInput(text, pair)])
    assert isinstance(found, HeadAnswer)
    return found


def fault(model: HeadModel, text: str, pair: str | None = None) -> str:
    [found] = model.run([HeadInput(text, pair)])
    assert isinstance(found, RequestFault)
    return found.fault.encode()


def encode(tiny: Tiny, text: str, pair: str | None = None) -> Any:
    return tiny.tokenizer.encode(text, pair)


@torch.no_grad()
def class_logits(tiny: Tiny, text: str, pair: str | None = None) -> torch.Tensor:
    logits: torch.Tensor = tiny.model(torch.tensor([encode(tiny, text, pair).ids])).logits[0]
    return logits


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("pair", [None, "it is a song", "\U0001f600"])
def test_classifier_is_that_of_transformers(build: Any, text: str, pair: str | None) -> None:
    tiny = build("classifier")
    expected = torch.softmax(class_logits(tiny, text, pair), dim=-1).numpy()
    found = answer(load(tiny), text, pair)
    assert found.scores.dtype == np.float32
    np.testing.assert_allclose(found.scores, expected, atol=2e-5)
    assert found.label == f"LABEL_{expected.argmax()}"
    assert found.slots is None


@pytest.mark.parametrize("name", ["classifier", "joint"])
def test_special_tokens_of_a_text_that_is_not_trusted(build: Any, name: str) -> None:
    """In one batch with a text that is trusted."""
    tiny, text = build(name), "play<|endoftext|>the band"
    model = load(tiny)
    plain_tokenizer = tokenizers.Tokenizer.from_str(tiny.tokenizer.to_str())
    plain_tokenizer.encode_special_tokens = True
    flags = (True, False, True, False)
    for flag, found in zip(
        flags, model.run([HeadInput(text, special_tokens=flag) for flag in flags]), strict=True
    ):
        encoding = (tiny.tokenizer if flag else plain_tokenizer).encode(
            text, add_special_tokens=name == "classifier"
        )
        assert (0 in encoding.ids[1:-1]) is flag
        with torch.no_grad():
            ids = torch.tensor([encoding.ids])
            if name == "classifier":
                logits = tiny.model(ids).logits[0]
            else:
                logits = tiny.model.intent_head(tiny.model.transformer(ids).last_hidden_state[0, -1])
        assert isinstance(found, HeadAnswer)
        np.testing.assert_allclose(found.scores, torch.softmax(logits, dim=-1).numpy(), atol=2e-5)


@pytest.mark.parametrize("name", ["classifier", "multi_label", "joint"])
def test_a_temperature_divides_the_logits_of_its_row(build: Any, name: str) -> None:
    model = load(build(name))
    plain, hot = model.run([HeadInput(TEXTS[0]), HeadInput(TEXTS[0], temperature=4.0)])
    assert isinstance(plain, HeadAnswer)
    assert isinstance(hot, HeadAnswer)
    logits = np.log(plain.scores)
    if name == "multi_label":
        expected = 1 / (1 + np.exp((np.log1p(-plain.scores) - logits) / 4))
    else:
        expected = np.exp(logits / 4) / np.exp(logits / 4).sum()
    np.testing.assert_allclose(hot.scores, expected, rtol=1e-4)
    assert hot.label == plain.label
    assert hot.slots == plain.slots


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_is_none(build: Any, temperature: float) -> None:
    [found] = load(build("classifier")).run([HeadInput("a", temperature=temperature)])
    assert isinstance(found, RequestFault)
    assert found.fault.field == "temperature"


def test_a_regression_has_no_temperature(build: Any) -> None:
    [found] = load(build("regression")).run([HeadInput("a", temperature=2.0)])
    assert isinstance(found, RequestFault)
    assert "regression" in found.fault.message


@pytest.mark.parametrize("name", ["pad is a letter", "pad is eos", "classifier"])
def test_a_text_that_ends_in_padding_is_read_as_in_transformers(build: Any, name: str) -> None:
    """The text ends in the padding token, or the template does, or there is nothing else to read.

    `classifier` has no padding token: the last token decides.
    """
    tiny = build(name)
    assert encode(tiny, "!").ids[0] == checkpoints.EXCLAMATION_MARK
    texts = [("wow!", None), ("wow!!!", None), ("!", None), ("!!!", None), ("a!b", None), ("!a", None)]
    pairs = [("wow!", "the band!!"), ("!!", "!!"), ("a", "!"), ("!", "a")]
    inputs = [HeadInput(text, pair) for text, pair in [*texts, *pairs]]
    model = load(tiny)
    for item, together in zip(inputs, model.run(inputs), strict=True):
        expected = torch.softmax(class_logits(tiny, item.text, item.text_pair), dim=-1).numpy()
        np.testing.assert_allclose(answer(model, item.text, item.text_pair).scores, expected, atol=2e-5)
        assert isinstance(together, HeadAnswer)
        np.testing.assert_allclose(together.scores, expected, atol=2e-5)


@pytest.mark.parametrize("name", ["pad is a letter", "pad is eos"])
def test_a_batch_with_padding_is_read_as_in_transformers(build: Any, name: str) -> None:
    """transformers pads a batch with the very token that texts end in."""
    tiny = build(name)
    texts = ["wow!", "the band in york!!!", "!", "a!b"]
    rows = [encode(tiny, text).ids for text in texts]
    padding = tiny.model.config.pad_token_id
    padded = [row + [padding] * (max(map(len, rows)) - len(row)) for row in rows]
    with torch.no_grad():
        expected = torch.softmax(tiny.model(torch.tensor(padded)).logits, dim=-1).numpy()
    for found, row in zip(load(tiny).run([HeadInput(text) for text in texts]), expected, strict=True):
        assert isinstance(found, HeadAnswer)
        np.testing.assert_allclose(found.scores, row, atol=2e-5)


def test_labels_of_a_multi_label_classifier_are_independent(build: Any) -> None:
    tiny = build("multi_label")
    found = answer(load(tiny), TEXTS[0])
    np.testing.assert_allclose(found.scores, torch.sigmoid(class_logits(tiny, TEXTS[0])).numpy(), atol=2e-5)


def test_a_regression_answers_its_value(build: Any) -> None:
    tiny = build("regression")
    found = answer(load(tiny), TEXTS[0])
    np.testing.assert_allclose(found.scores, class_logits(tiny, TEXTS[0]).numpy(), atol=1e-4)
    assert found.label == "LABEL_0"


@torch.no_grad()
def joint_reference(tiny: Tiny, text: str, echo: bool) -> tuple[np.ndarray[Any, Any], list[str], Any]:
    """Intent probabilities, the tag at the first token of each word of the text, and its encoding."""
    encoding = encode(tiny, text)
    ids = [*encoding.ids, 0, *encoding.ids] if echo else encoding.ids
    module: Any = tiny.model
    hidden = module.transformer(torch.tensor([ids]))[0][0]
    slots = module.slot_head(hidden[-len(encoding.ids) :]).log_softmax(dim=-1).numpy()
    firsts = [word.token for word in split_words(text, encoding)]
    tags = [OUTSIDE] * len(encoding.ids)
    rules = TagRules(SLOTS, None if echo else module.slot_transitions.weight.numpy())
    for token, tag in zip(firsts, rules.best_path(slots[firsts]), strict=True):
        tags[token] = SLOTS[tag]
    intents = torch.softmax(module.intent_head(hidden[-1]), dim=-1).numpy()
    return intents, tags, encoding


@pytest.mark.parametrize("text", TEXTS[:5])
@pytest.mark.parametrize("name", ["joint", "echo"])
def test_joint_model_is_that_of_torch(build: Any, name: str, text: str) -> None:
    tiny = build(name)
    intents, tags, encoding = joint_reference(tiny, text, echo=name == "echo")
    found = answer(load(tiny), text)
    np.testing.assert_allclose(found.scores, intents, atol=2e-5)
    assert found.label == INTENTS[intents.argmax()]
    assert found.slots is not None
    check_slots(text, encoding, tags, found.slots)


def check_slots(text: str, encoding: Any, tags: list[str], slots: list[Slot]) -> None:
    """Each visible character carries the name that the first token of its word was tagged with."""
    names: list[str | None] = [None] * len(text)
    for slot in slots:
        assert text[slot.start : slot.end] == slot.value == slot.value.strip() != ""
        assert 0 < slot.score <= 1
        names[slot.start : slot.end] = [slot.name] * len(slot.value)
    first: dict[int, str] = {}
    for word, tag, (start, end) in zip(encoding.word_ids, tags, encoding.offsets, strict=True):
        tag = first.setdefault(word, tag)
        for index in range(start, end):
            if not text[index].isspace():
                assert names[index] == (None if tag == "O" else tag[2:]), (index, text[index])


def test_transitions_of_another_shape_are_refused(build: Any) -> None:
    """The manifest of an artifact that was stored unchecked could have other labels than its graph."""
    tiny = build("joint")
    manifest = Manifest.load(tiny.artifact)
    session = open_session(tiny.artifact / manifest.variants[Variant.FP32].graph.path, 1)
    fewer = replace(manifest, slot_labels=manifest.slot_labels[:-1])
    with pytest.raises(ModelError, match=r"slot_transitions: the shape is \[6, 5\], but"):
        HeadModel(fewer, tiny.tokenizer, session)


def test_slots_alone_have_no_intent(build: Any) -> None:
    tiny = build("tokens")
    text = TEXTS[2]
    with torch.no_grad():
        encoding = encode(tiny, text)
        tags = tiny.model(torch.tensor([encoding.ids])).logits[0].argmax(dim=-1).tolist()
    found = answer(load(tiny), text)
    assert (found.scores.shape, found.label) == ((0,), "")
    assert found.slots is not None
    check_slots(text, encoding, [SLOTS[tag] for tag in tags], found.slots)


@pytest.mark.parametrize("name", ["classifier", "multi_label", "joint", "echo", "tokens"])
@pytest.mark.parametrize("variant", [Variant.FP32, Variant.INT8])
def test_answers_do_not_depend_on_the_batch(build: Any, name: str, variant: Variant) -> None:
    model = load(build(name), variant)
    texts = [text for text in TEXTS if len(text) < 40]
    together = model.run([HeadInput(text) for text in texts])
    for text, batched in zip(texts, together, strict=True):
        assert isinstance(batched, HeadAnswer)
        alone = answer(model, text)
        np.testing.assert_allclose(batched.scores, alone.scores, atol=1e-5)
        assert batched.label == alone.label
        for one, other in zip(batched.slots or [], alone.slots or [], strict=True):
            assert replace(one, score=0) == replace(other, score=0)
            assert one.score == pytest.approx(other.score, abs=1e-5)


def test_a_bad_input_fails_alone(build: Any) -> None:
    first, second, third = load(build("classifier")).run([HeadInput("a"), HeadInput(""), HeadInput("b")])
    assert isinstance(first, HeadAnswer)
    assert isinstance(second, RequestFault)
    assert isinstance(third, HeadAnswer)


@given(st.lists(st.integers(1, 512), max_size=64))
def test_batches_hold_every_row_once_and_pad_little(lengths: list[int]) -> None:
    found = batches(lengths)
    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    for batch in found:
        longest = max(lengths[place] for place in batch)
        assert len(batch) == 1 or len(batch) * longest <= MOST_RUN_TOKENS
        for order, place in enumerate(batch):
            assert (longest - lengths[place]) * (len(batch) - order) <= RUN_TOKENS


def test_rows_of_about_one_length_go_together() -> None:
    assert batches([33, 33, 32, 33]) == [[0, 1, 3, 2]]
    assert batches([500, 3, 3]) == [[0], [1, 2]]


def test_nothing_to_do(build: Any) -> None:
    assert load(build("classifier")).run([]) == []


def test_faults_of_a_classifier(build: Any) -> None:
    model = load(build("classifier"))
    assert fault(model, "") == "invalid_argument [text]: empty; at least one character is needed"
    assert fault(model, "a", "") == "invalid_argument [text_pair]: empty; at least one character is needed"
    assert (
        fault(model, "\ud800") == "invalid_argument [text]: not Unicode text: a lone surrogate at character 0"
    )
    assert fault(model, "a", "b\udfff").startswith("invalid_argument [text_pair]: not Unicode text")
    said = f"this model reads at most {CONTEXT}"
    # The template adds one token to a text, and two to a pair.
    assert fault(model, "1" * CONTEXT) == f"context_length [text]: {CONTEXT + 1} tokens, but {said}"
    assert fault(model, "1" * CONTEXT, "1") == f"context_length [text]: {CONTEXT + 1} tokens, but {said}"
    assert fault(model, "1", "1" * CONTEXT) == (
        f"context_length [text_pair]: {CONTEXT + 3} tokens together with text (2), but {said}"
    )
    assert answer(model, "1" * (CONTEXT - 1)).label
    assert answer(model, "1", "1" * (CONTEXT - 3)).label


@pytest.mark.parametrize(("name", "limit"), [("joint", CONTEXT), ("echo", (CONTEXT - 1) // 2)])
def test_faults_of_an_nlu_model(build: Any, name: str, limit: int) -> None:
    model = load(build(name))
    said = f"{limit + 1} tokens, but this model reads at most {limit}"
    assert fault(model, "1" * (limit + 1)) == f"context_length [text]: {said}"
    assert fault(model, "a", "b").startswith(
        "invalid_argument [text_pair]: a model of kind nlu reads one text"
    )
    assert answer(model, "1" * limit).label in INTENTS


def test_blank_text_has_an_intent_and_no_slots(build: Any) -> None:
    found = answer(load(build("echo")), " \n ")
    assert found.label in INTENTS
    assert found.slots == []


def copied(tiny: Tiny, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The artifact by links, with a changed manifest."""
    for source in tiny.artifact.iterdir():
        (folder / source.name).symlink_to(source)
    manifest = json.loads((tiny.artifact / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_slots_of_golden_prompts_are_compared(build: Any, tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["variants"]["fp32"]["golden"][2]["slot_scores"].reverse()

    with pytest.raises(ModelError, match=r"golden prompt .* a slot score is off by"):
        HeadModel.load(copied(build("tokens"), tmp_path, change), Variant.FP32, threads=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda manifest: manifest["variants"]["fp32"]["golden"][0].update(scores=[9.0, 0.0, 0.0]),
            "fp32: golden prompt .* a label score is off by",
        ),
        (
            lambda manifest: manifest["variants"]["fp32"]["golden"][0].update(scores=[1.0]),
            "3 label scores, but 1 in the manifest",
        ),
        (lambda manifest: manifest["golden"][0].update(text="1" * 200), "golden prompt .* 201 tokens"),
        (
            lambda manifest: (
                manifest.update(kind="lm", golden=[])
                or [entry.update(golden=[]) for entry in manifest["variants"].values()]
            ),
            "kind lm has no head",
        ),
        (lambda manifest: manifest.update(problem_type="riddle"), "problem_type 'riddle' is not known"),
        (lambda manifest: manifest.update(extra=1), "manifest.extra: unknown field"),
        (lambda manifest: manifest["variants"].pop("fp32"), "variant fp32 is not among int8"),
    ],
)
def test_an_artifact_that_is_not_right_is_refused(
    build: Any, tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    folder = copied(build("classifier"), tmp_path, change)
    with pytest.raises(ModelError, match=said):
        HeadModel.load(folder, Variant.FP32, threads=1)


def test_a_missing_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"manifest\.json"):
        HeadModel.load(tmp_path, Variant.FP32, threads=1)
