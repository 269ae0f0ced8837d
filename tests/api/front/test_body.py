from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.front.body import MAX_CONTAINERS, MAX_DEPTH, MAX_MEMBERS, MalformedJson, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab\"\\[{é"), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(VALUES)
def test_any_json_value_comes_back(value: object) -> None:
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"{", "line 1, column 2"),
        (b'{"a": 1,}', "column"),
        (b"{'a': 1}", "column 2"),
        (b'{"a": 1} x', "Extra data"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1, "a": 2}', "'a' comes twice"),
        (b'{"x": {"a": 1, "b": 0, "a": 2}}', "'a' comes twice"),
        (b'{"a": "\xff"}', "offset 7"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (b'"\\ud800"', "surrogate"),
        (b'{"a": ["\\udc00x"]}', "surrogate"),
        (b"9" * 5000, "digits"),
        (b"[" * 100_000, f"deeper than {MAX_DEPTH}"),
        (b'{"a":' * 50 + b"1" + b"}" * 50, "deeper"),
    ],
)
def test_what_is_not_json_is_said(body: bytes, said: str) -> None:
    with pytest.raises(MalformedJson, match=said.replace("-", r"\-")):
        parse_json(body)


def test_brackets_in_strings_are_no_depth() -> None:
    text = '[{"\\' * 1000
    assert parse_json(json.dumps({"prompt": text, "b": [1, [2]]}).encode()) == {"prompt": text, "b": [1, [2]]}


def test_many_shallow_objects_are_fine() -> None:
    value: list[dict[str, list[int]]] = [{"a": []} for _ in range(1000)]
    assert parse_json(json.dumps(value).encode()) == value


def test_a_name_that_comes_twice_among_many_is_found_at_once() -> None:
    names = [*range(MAX_MEMBERS - 1), MAX_MEMBERS - 2]
    body = "{" + ",".join(f'"{name}":0' for name in names) + "}"
    with pytest.raises(MalformedJson, match=f"'{MAX_MEMBERS - 2}' comes twice"):
        parse_json(body.encode())


def test_an_object_of_many_members_is_refused() -> None:
    body = "{" + ",".join(f'"{name}":0' for name in range(MAX_MEMBERS + 1)) + "}"
    with pytest.raises(MalformedJson, match=f"{MAX_MEMBERS + 1} members, but at most {MAX_MEMBERS}"):
        parse_json(body.encode())


def test_surrogate_pairs_are_text() -> None:
    assert parse_json(b'"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize("item", ["[]", "{}", "[[[[]]]]", '{"a": []}', '["[", "]"]'])
def test_arrays_and_objects_are_counted_before_one_is_made(item: str) -> None:
    body = "[" + ",".join([item] * (MAX_CONTAINERS + 1)) + "]"
    with pytest.raises(MalformedJson, match=f"more than {MAX_CONTAINERS} arrays and objects"):
        parse_json(body.encode())


def test_brackets_in_strings_are_text() -> None:
    value = ["[{" * MAX_CONTAINERS, '"[' * MAX_CONTAINERS, "\\[" * MAX_CONTAINERS, *[[1]] * MAX_DEPTH]
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize("body", [b'["' + b"[" * 9000, b'["' + b'\\"[' * 9000, b"[" * 20 + b"]" * 9000])
def test_brackets_without_their_counterpart(body: bytes) -> None:
    with pytest.raises(MalformedJson):
        parse_json(body)
