"""Bad input over real HTTP: a clear 4xx problem document naming the field, and a server that goes on."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.appliance import MAX_UNPACKED_BYTES, Appliance
from tests.e2e.test_lifecycle import upload

FIELDS: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/generate", {}, "prompt"),
    ("/v1/generate", {"prompt": 5}, "prompt"),
    ("/v1/generate", {"prompt": [[5], [5, 8192]]}, "prompt.1.1"),
    ("/v1/generate", {"prompt": [5] * 513}, "prompt"),
    ("/v1/generate", {"prompt": "word " * 2000}, "prompt"),
    ("/v1/generate", {"prompt": "a", "max_tokens": 513}, "max_tokens"),
    ("/v1/generate", {"prompt": "a", "max_tokens": -1}, "max_tokens"),
    ("/v1/generate", {"prompt": "a", "max_tokens": "many"}, "max_tokens"),
    ("/v1/generate", {"prompt": "a", "temperature": -0.1}, "temperature"),
    ("/v1/generate", {"prompt": "a", "top_p": 1.5}, "top_p"),
    ("/v1/generate", {"prompt": "a", "top_k": -2}, "top_k"),
    ("/v1/generate", {"prompt": "a", "n": 0}, "n"),
    ("/v1/generate", {"prompt": "a", "tempreature": 1}, "tempreature"),
    ("/v1/generate", {"prompt": "a", "stop": [5]}, "stop"),
    ("/v1/classify", {"input": ""}, "input"),
    ("/v1/classify", {"input": "word " * 3000}, "input"),
    ("/v1/classify", {"input": ["a", 1]}, "input"),
    ("/v1/classify", {"input": ["a"] * 67 + ["word " * 3000] + ["a"] * 5}, "input.67"),
    ("/v1/nlu", {"input": ["a", "word " * 3000]}, "input.1"),
    (
        "/v1/infer",
        {"pairs": [{"premise": "a", "hypothesis": text} for text in ("a", "word " * 3000)]},
        "pairs.1.hypothesis",
    ),
    ("/v1/infer", {"premise": "a"}, "hypothesis"),
    ("/v1/infer", {"premise": "a", "hypothesis": "word " * 3000}, "hypothesis"),
    ("/v1/nlu", {"input": None}, "input"),
    ("/v1/classify", {"input": "word " * 3000, "labels": ["a", "b"]}, "input"),
    ("/v1/classify", {"input": "a", "labels": ["a", "word " * 3000]}, "labels"),
    ("/v1/score", {"prompt": "word " * 3000, "continuations": ["a"]}, "prompt"),
    ("/v1/score", {"prompt": "a", "continuations": []}, "continuations"),
    ("/v1/tasks", {"type": "divine", "parameters": {}}, "type"),
]


@pytest.mark.parametrize(("path", "body", "field"), FIELDS)
def test_the_problem_names_the_field(
    appliance: Appliance, path: str, body: dict[str, Any], field: str
) -> None:
    answer = appliance.http.post(path, json=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert any(error["field"].startswith(field) for error in problem["errors"]), problem
    assert problem["detail"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"prompt": "a", "temperature": NaN}', 400),
        (b'{"prompt": "a", "temperature": 1e999}', 422),
        (b'{"prompt": "\xff\xfe"}', 400),
        (b'{"prompt": ', 400),
        (b"[]", 422),
        (b"", 400),
        (b'{"prompt": "' + b"a" * 10_000_000 + b'"}', 413),
    ],
)
def test_bodies_that_are_none(appliance: Appliance, content: bytes, status: int) -> None:
    answer = appliance.http.post(
        "/v1/generate", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]


def test_a_model_that_is_not_there(appliance: Appliance) -> None:
    answer = appliance.http.post("/v1/generate", json={"prompt": "a", "model": "nobody"})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["detail"] == "model 'nobody' is not deployed"
    assert problem["errors"] == [{"field": "model", "message": problem["detail"]}]
    answer = appliance.http.post("/v1/completions", json={"prompt": "a", "model": "nobody"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "model")
    assert answer.json()["error"]["code"] == "model_not_found"


def tar_of(*members: tuple[str, bytes | None]) -> bytes:
    """A .tar.gz; a member without content is a link to /etc/passwd."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if content is None:
                entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content or b""))
    return buffer.getvalue()


def zip_bomb() -> bytes:
    buffer = io.BytesIO()
    block = b"\0" * 2**20
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("config.json", "w", force_zip64=True) as member,
    ):
        for _ in range(MAX_UNPACKED_BYTES // 2**20 + 1):
            member.write(block)
    return buffer.getvalue()


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "not an archive": lambda: b"hello",
    "empty": lambda: b"",
    "no checkpoint": lambda: tar_of(("readme.txt", b"hello")),
    "pickles": lambda: tar_of(("config.json", b"{}"), ("pytorch_model.bin", b"\x80\x02}q\x00.")),
    "parent path": lambda: tar_of(("../config.json", b"{}")),
    "absolute path": lambda: tar_of(("/etc/config.json", b"{}")),
    "link": lambda: tar_of(("config.json", None)),
    "too much unpacked": zip_bomb,
}


@pytest.mark.parametrize("case", sorted(ARCHIVES))
def test_archives_are_vetted_before_anything_is_kept(appliance: Appliance, case: str) -> None:
    answer = upload(appliance, "bad", ARCHIVES[case]())
    assert 400 <= answer.status_code < 500, answer.text
    problem = answer.json()
    assert problem["errors"][0]["field"] == "file", problem
    assert appliance.http.get("/v1/models/bad").status_code == 404


def test_after_all_that_it_serves(appliance: Appliance) -> None:
    assert appliance.ready()
    assert appliance.post("/v1/generate", {"prompt": "a", "max_tokens": 2})["choices"]
