"""What the terminal shows of texts that others wrote."""

from __future__ import annotations

import pytest

from cli.show import amount, listed, plain, print_facts, print_json, print_table, quality
from cli.tasks import print_understood


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/x] y", ":smile:", "[1]", "naïve 😀"])
def test_cells_are_shown_as_they_are(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("slot", "value"), [("a", text)], "none")
    assert text in capsys.readouterr().out


def test_a_model_that_tags_slots_alone(capsys: pytest.CaptureFixture[str]) -> None:
    slot = {"name": "genre", "value": "jazz", "start": 5, "end": 9, "score": 0.9}
    print_understood({"intent": None, "slots": [slot]})
    assert "jazz" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\ud800\u2028", r"\ud800\u2028"),
        ("\x85", r"\x85"),
        ("naïve 👩‍🚀", "naïve 👩‍🚀"),
    ],
)
def test_nothing_steers_the_terminal(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plain(text) == shown
    print_table(("label",), [(text,)], "none")
    assert shown in capsys.readouterr().out


def test_a_row_is_a_line_for_other_programs(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "b"), [("word " * 40, "word " * 40)], "none")
    assert capsys.readouterr().out.count("word\n") == 0


def test_facts_are_broken_for_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("short", "one"), ("none", ""), ("long label", "word " * 20 + "\x1b")]
    print_facts(rows)
    whole = capsys.readouterr().out.splitlines()
    assert whole == ["  short       one", "  long label  " + "word " * 20 + "\\x1b"]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    print_facts(rows)
    broken = capsys.readouterr().out.splitlines()
    assert max(map(len, broken)) <= 40
    assert broken[2] == " " * 14 + "word word word word word"


def test_json_of_a_name_that_is_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "a\udcffé"})
    assert capsys.readouterr().out == '{\n  "name": "a?é"\n}\n'


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10.0 k"),
        (124_439_808, "124.4 M"),
        (999_960_000, "1.0 B"),
        (1_557_611_200, "1.6 B"),
    ],
)
def test_large_numbers(count: int, words: str) -> None:
    assert amount(count) == words


def test_long_lists() -> None:
    assert listed("abc", most=3) == "a, b, c"
    assert listed("abcde", most=3) == "a, b, c and 2 more"
    assert listed(["x" * 1000]) == "x" * 97 + "..."


@pytest.mark.parametrize(
    ("card", "words"),
    [
        (None, ""),
        (
            {
                "perplexity": 9.1,
                "perplexity_change": 0.000213,
                "mean_kl": 0.000204,
                "top1_agreement": 0.993,
                "greedy_agreement": 23.5,
                "greedy_tokens": 32,
                "tokens": 4096,
            },
            "perplexity +0.02 %  top-1 99.3 %  KL 0.0002  greedy 23.5 of 32 tokens",
        ),
        (
            {"texts": 276, "label_agreement": 1.0, "label_f1": 1.0, "max_probability_shift": 0.00412},
            "labels 100 %  F1 1.000  shift 0.0041",
        ),
        ({"label_agreement": 0.99999}, "labels 99.99 %"),
        ({"slot_agreement": 0.57, "slot_f1": 0.5}, "slots 57 %  slot F1 0.500"),
    ],
)
def test_a_quality_card_in_words(card: dict[str, float] | None, words: str) -> None:
    assert quality(card) == words
