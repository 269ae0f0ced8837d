"""Rows of all formats, and what is refused before training starts: by file, row and field."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from train.data import MAX_ROW_BYTES, DataError, LabelRow, Problem, TextRow, UtteranceRow, read_rows


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(
    path: Path, kind: str, problem: Problem = Problem.SINGLE, limit: int = MAX_ROW_BYTES
) -> DataError:
    with pytest.raises(DataError) as caught:
        read_rows(path, kind, problem=problem, limit=limit)
    assert str(caught.value).startswith(str(path))
    return caught.value


def test_json_lines_of_a_classifier(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "good ", "label": "a"}\n\n{"text": "bad", "label": 3}\n')
    assert read_rows(path, "classifier") == [LabelRow(1, "good", None, "a"), LabelRow(3, "bad", None, "3")]


def test_a_bom_and_crlf_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"\xef\xbb\xbftext,text_pair,label\r\na,b,yes\r\n\r\nc,d,no\r\n")
    assert read_rows(path, "classifier") == [LabelRow(2, "a", "b", "yes"), LabelRow(4, "c", "d", "no")]
    path = write(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"text": "a"}\r\n')
    assert read_rows(path, "lm") == [TextRow(1, "a")]


def test_a_quoted_value_may_have_several_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'label,text\nx,"one, ""two""\nthree"\ny,four\n')
    assert read_rows(path, "classifier") == [
        LabelRow(2, 'one, "two"\nthree', None, "x"),
        LabelRow(4, "four", None, "y"),
    ]


def test_tabs_need_no_quotes(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", 'text\tlabel\n"half a quote\tx\n')
    assert read_rows(path, "classifier") == [LabelRow(2, '"half a quote', None, "x")]


@pytest.mark.parametrize(
    ("problem", "written", "label"),
    [("multi", "a | b", ("a", "b")), ("multi", "", ()), ("regression", "-0.5", -0.5), ("single", "7", "7")],
)
def test_labels_of_a_table(tmp_path: Path, problem: str, written: str, label: object) -> None:
    path = write(tmp_path, "a.csv", f"text,label\nhello,{written}\n")
    assert read_rows(path, "classifier", problem=problem) == [LabelRow(2, "hello", None, label)]  # type: ignore[arg-type]


def test_lists_of_labels(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "x", "label": ["a", "b", "a"]}\n{"text": "y", "label": []}\n')
    assert [row.label for row in read_rows(path, "classifier", problem="multi")] == [("a", "b"), ()]


def test_documents_of_a_text(tmp_path: Path) -> None:
    blank = write(tmp_path, "a.txt", "one\ntwo\n\n\n three\n")
    assert read_rows(blank, "lm") == [TextRow(1, "one\ntwo"), TextRow(5, "three")]
    marked = write(tmp_path, "b.txt", "one\n\ntwo\n<|endoftext|>\nthree\n<|endoftext|>\n")
    assert read_rows(marked, "lm") == [TextRow(1, "one\n\ntwo"), TextRow(5, "three")]


UTTERANCE = UtteranceRow(1, ("fly", "to", "New", "York", "?"), ("O", "O", "B-city", "I-city", "O"), "travel")


def test_utterances_in_three_forms(tmp_path: Path) -> None:
    tags = list(UTTERANCE.tags)
    slots = [{"start": 7, "end": 15, "label": "city"}]
    path = write(
        tmp_path,
        "a.jsonl",
        json.dumps({"tokens": list(UTTERANCE.words), "tags": tags, "intent": "travel"})
        + "\n"
        + json.dumps({"text": "fly to New York?", "slots": slots, "intent": "travel"}),
    )
    first, second = read_rows(path, "nlu")
    assert (first.words, first.tags, first.intent) == (second.words, second.tags, second.intent)
    assert first == UTTERANCE
    table = write(tmp_path, "a.csv", "text,tags,intent\nfly to New York ?,O O B-city I-city O,travel\n")
    assert read_rows(table, "nlu") == [UtteranceRow(2, UTTERANCE.words, UTTERANCE.tags, "travel")]


@pytest.mark.parametrize(
    ("name", "content", "row", "words"),
    [
        ("a.csv", "", None, "no rows"),
        ("a.csv", "text,label\n", None, "no rows"),
        ("a.jsonl", "\n \n", None, "no rows"),
        ("a.parquet", "x", None, "reads .jsonl"),
        ("a.csv", b"text,label\nok,a\ncaf\xe9,b\n", 3, "no UTF-8 at byte 4"),
        ("a.jsonl", b'{"text": "\xff", "label": "a"}', 1, "no UTF-8"),
        ("a.csv", "text,label\nok,a\nx\0y,b\n", 3, "NUL"),
        ("a.csv", "text,label\nNaN,a\n", 2, "text: NaN"),
        ("a.csv", "text,label\nok,nan\n", 2, "label: nan"),
        ("a.jsonl", '{"text": "a", "label": NaN}', 1, "no finite number"),
        ("a.csv", "text,label,text\na,b,c\n", 1, "'text' comes twice"),
        ("a.jsonl", '{"text": "a", "text": "b", "label": "c"}', 1, "comes twice"),
        ("a.csv", "text;label\na;b\n", 2, "no such field; those of the row are 'text;label'"),
        ("a.csv", "text,label\na,b,c\n", 2, "3 values for 2 columns"),
        ("a.csv", 'text,label\nok,a\n"open,b\nmore,c\n', 3, "not closed"),
        ("a.csv", 'text,label\n"a"b,c\n', 2, "written twice"),
        ("a.csv", "text,label\n ,a\n", 2, "text is empty"),
        ("a.csv", "text,label\na,\n", 2, "one class is needed"),
        ("a.jsonl", '{"text": "a", "label": true}', 1, "one class is needed"),
        ("a.jsonl", '{"text": 5, "label": "a"}', 1, "'5' is no text"),
        ("a.jsonl", '[{"text": "a"}]', 1, "a JSON object is needed"),
        ("a.jsonl", '[\n{"text": "a", "label": "a"}\n]', 1, "not one list"),
        ("a.jsonl", '{"text": "a", "label": "a"', 1, "no JSON object"),
    ],
)
def test_bad_rows_of_a_classifier(
    tmp_path: Path, name: str, content: str | bytes, row: int | None, words: str
) -> None:
    error = refusal(write(tmp_path, name, content), "classifier")
    assert error.row == row
    assert words in str(error)


def test_a_number_must_be_finite(tmp_path: Path) -> None:
    for written in ("inf", "1e999", "much"):
        path = write(tmp_path, "a.csv", f"text,label\nok,1\nx,{written}\n")
        error = refusal(path, "classifier", problem=Problem.REGRESSION)
        assert (error.row, error.field) == (3, "label")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"], "intent": "i"}, "1 tags for 2 words"),
        ({"tokens": ["a"], "tags": ["X-y"], "intent": "i"}, "O, B-NAME or I-NAME"),
        ({"tokens": ["a", "b"], "tags": ["B-x", "I-y"], "intent": "i"}, "begins with B-y"),
        ({"tokens": ["a b"], "tags": ["O"], "intent": "i"}, "white space"),
        ({"tokens": ["a"], "tags": ["O"]}, "an intent is needed"),
        ({"text": "ab", "slots": [{"start": 0, "end": 3, "label": "x"}], "intent": "i"}, "has 2 characters"),
        ({"text": "a b", "slots": [{"start": 0, "end": 2, "label": "x"}], "intent": "i"}, "white space"),
        (
            {
                "text": "abc",
                "slots": [{"start": 0, "end": 2, "label": "x"}, {"start": 1, "end": 3, "label": "y"}],
                "intent": "i",
            },
            "overlaps",
        ),
        ({"text": "abc", "slots": [{"start": "0"}], "intent": "i"}, "are needed"),
        ({"text": "abc", "slots": "x", "intent": "i"}, "a list of objects"),
    ],
)
def test_mismatched_slots(tmp_path: Path, row: dict[str, object], words: str) -> None:
    good = {"tokens": ["a"], "tags": ["O"], "intent": "i"}
    error = refusal(write(tmp_path, "a.jsonl", f"{json.dumps(good)}\n{json.dumps(row)}\n"), "nlu")
    assert error.row == 2
    assert words in str(error)


def test_a_row_has_a_limit(tmp_path: Path) -> None:
    line = '{"text": "' + "a" * 89 + '"}'
    assert len(read_rows(write(tmp_path, "a.jsonl", f"{line}\n"), "lm", limit=len(line))) == 1
    error = refusal(write(tmp_path, "a.jsonl", f"{line}\n{line} \n"), "lm", limit=len(line))
    assert (error.row, "101 bytes" in str(error)) == (2, True)
    # A quote that is not closed takes in all lines below it.
    path = write(tmp_path, "a.csv", 'text,label\na,b\n"open,c\n' + "d,e\n" * 100)
    error = refusal(path, "classifier", limit=100)
    assert (error.row, "not closed" in str(error)) == (3, True)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_a_line_of_one_gigabyte_is_never_in_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(1 << 30)  # a sparse file: zeros that take no room on the disk
    limit = 400 << 20
    code = (
        "import pathlib, sys; from train.data import DataError, read_rows\n"
        "try: read_rows(pathlib.Path(sys.argv[1]), 'lm')\n"
        "except DataError as error: print(error)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "a row of more than 8,388,608 bytes, which is the limit" in found.stdout


def test_it_needs_no_torch() -> None:
    code = "import sys, train.data; print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
