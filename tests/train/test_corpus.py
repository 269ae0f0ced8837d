"""Cleaning and re-casing, and the promise that no held-out story is trained on."""

from pathlib import Path

from train.recipes.corpus import (
    proper_names,
    read_corpus,
    read_fairytales,
    read_tinystories,
    recase,
    straighten,
    unwrap,
    without_shared_passages,
)


def test_straighten_repairs_wrongly_decoded_quotes() -> None:
    assert straighten("â€œItâ€™s “fine”â€\x9d") == '"It\'s "fine""'


def test_unwrap_joins_wrapped_lines_and_keeps_paragraphs() -> None:
    text = "one two\nthree\n\nfour\nfive"
    assert unwrap(text) == "one two three\nfour five"


def test_unwrap_keeps_lines_that_are_paragraphs() -> None:
    long = "word " * 30
    assert unwrap(f"{long}\nshort") == f"{long.strip()}\nshort"


def test_recase_capitalises_sentences_names_and_the_pronoun() -> None:
    names = proper_names(["the girl Lily and I met Lily, and then I saw Lily and I ran"])
    assert recase('lily ran. "where is lily?" i said.', names) == 'Lily ran. "Where is Lily?" I said.'


def test_held_out_stories_are_not_in_the_training_text(data: Path) -> None:
    training = "\n".join(read_corpus(data).documents())
    for split, count in (("val", 23), ("test", 23)):
        stories = read_fairytales(data, split)
        assert len(stories) == count
        assert not [story[:80] for story in stories if story[200:300] in training]
    tales = read_tinystories(data, held_out=True)
    assert len(tales) > 50
    assert not [story[:80] for story in tales if story[200:300] in training]


def test_a_story_that_shares_a_passage_is_not_held_out() -> None:
    passage = (
        "the old fox sat under the bridge and counted the boats that came by in the night, one by one, "
        "and when the sun rose over the hills he went home to his den and spoke of all he had seen"
    )
    others = ["A tale. " + passage.capitalize() + " until morning."]
    assert without_shared_passages([f"{passage}, and slept.", f"another tale: {passage[::-1]}"], others) == [
        f"another tale: {passage[::-1]}"
    ]
