"""Checkpoints by their names on the hub, which here is a server on this machine."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from export.errors import CheckpointError, ExportError
from export.hub import HubName, fetch_checkpoint, weight_files
from runtime.manifest import Manifest
from tests.export.hub_server import COMMIT, HubServer, serve

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9"
FETCH = """
import json, sys
from export.errors import ExportError
from export.hub import HubName, fetch_checkpoint
for text in sys.argv[1:]:
    name = HubName.parse(text)
    assert name is not None
    try:
        folder, commit = fetch_checkpoint(name)
        print(json.dumps({"files": sorted(path.name for path in folder.iterdir()), "commit": commit}))
    except ExportError as error:
        print(json.dumps({"message": error.message, "field": error.field}))
"""
Answer = dict[str, object]
Fetch = Callable[..., Answer]
FetchAll = Callable[..., list[Answer]]


@pytest.fixture
def hub(checkpoint: Callable[[str], Path], tmp_path: Path) -> Iterator[HubServer]:
    """Repositories `tiny`, with more in it than an export reads, and `owner/tagger`."""
    tiny = tmp_path / "hub" / "tiny"
    shutil.copytree(checkpoint("lm"), tiny)
    (tiny / "pytorch_model.bin").write_bytes(b"never read")
    (tiny / "flax_model.msgpack").write_bytes(b"never read")
    (tiny / "onnx").mkdir()
    (tiny / "onnx" / "model.safetensors").write_bytes(b"never read")
    shutil.copytree(checkpoint("tagger"), tmp_path / "hub" / "owner" / "tagger")
    with serve(tmp_path / "hub") as server:
        yield server


def copied(hub: HubServer, name: str) -> str:
    """`name`, whose repository has what `tiny` has; the cache keeps the two apart."""
    shutil.copytree(hub.repositories / "tiny", hub.repositories / name.partition("@")[0])
    return name


def environment(cache: Path, endpoint: str, **more: str) -> dict[str, str]:
    """The library reads these when it is imported, hence the child processes."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {**own, "HF_HOME": str(cache), "HF_ENDPOINT": endpoint, **more}


@pytest.fixture
def fetch_all(tmp_path: Path) -> FetchAll:
    """Call `fetch_checkpoint`; returns for each name the names of the files and the commit, or the error."""

    def call(names: Iterable[str], endpoint: str, **more: str) -> list[Answer]:
        ended = subprocess.run(
            [sys.executable, "-c", FETCH, *names],
            cwd=ROOT,
            env=environment(tmp_path / "cache", endpoint, **more),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 0, ended.stderr
        return [json.loads(line) for line in ended.stdout.splitlines()]

    return call


@pytest.fixture
def fetch(fetch_all: FetchAll) -> Fetch:
    """The same for one name."""
    return lambda name, endpoint, **more: fetch_all([name], endpoint, **more)[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpt2", HubName("gpt2")),
        ("openai-community/gpt2", HubName("openai-community/gpt2")),
        ("owner/name_1.5@v1.0", HubName("owner/name_1.5", "v1.0")),
        ("/var/lib/staging/upload", None),
        ("models/owner/name", None),
        ("./gpt2", None),
        ("../gpt2", None),
        ("gpt2/", None),
        ("gpt2.zip", None),
        ("owner/gpt2.TAR.GZ", None),
        ("model.safetensors", None),
        ("gpt2@", None),
        ("gpt2@refs/pr/1", None),
        ("hub: gpt2", None),
        ("", None),
    ],
)
def test_names(text: str, expected: HubName | None) -> None:
    assert HubName.parse(text) == expected


def test_downloads_only_what_is_read(hub: HubServer, fetch: Fetch) -> None:
    wanted = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    answer = fetch("tiny", hub.url)
    assert answer == {"files": wanted, "commit": COMMIT}
    got = {line.rpartition("/")[2] for line in hub.asked if line.startswith("GET /tiny")}
    assert got == set(wanted)


def test_a_second_time_comes_from_the_cache(hub: HubServer, fetch: Fetch) -> None:
    fetch("owner/tagger@v1", hub.url)
    hub.asked.clear()
    assert fetch("owner/tagger@v1", hub.url)["commit"] == COMMIT
    assert not [line for line in hub.asked if line.startswith("GET /owner")]


@pytest.mark.parametrize("offline", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_connection_the_cache_is_used(
    offline: dict[str, str], hub: HubServer, fetch_all: FetchAll
) -> None:
    names = ["tiny", copied(hub, "second@v1"), copied(hub, f"third@{COMMIT}")]
    found = fetch_all(names, hub.url)
    assert [answer.get("commit") for answer in found] == [COMMIT] * 3
    assert fetch_all(names, NOWHERE, **offline) == found


@pytest.mark.parametrize(
    ("offline", "reason"),
    [
        ({}, f"the hub ({NOWHERE}) cannot be reached (no connection)"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids to ask the hub"),
    ],
)
def test_without_a_connection_says_what_to_do(offline: dict[str, str], reason: str, fetch: Fetch) -> None:
    begin = time.monotonic()
    answer = fetch("owner/tagger", NOWHERE, **offline)
    assert time.monotonic() - begin < 20
    assert answer["field"] == "source"
    assert answer["message"] == (
        f"owner/tagger: no such file or folder, {reason}, and the cache does not hold it: download it on a"
        " machine with a connection (hf download owner/tagger --local-dir FOLDER), and give the folder"
    )


def test_a_cache_that_holds_no_weights_is_none(hub: HubServer, fetch: Fetch) -> None:
    """Other programs download single files of a repository."""
    hub.refusals["model.safetensors"] = (403, "")
    fetch("tiny", hub.url)
    assert "the cache does not hold it" in str(fetch("tiny", NOWHERE)["message"])


# What is asked for, and what is said; after a name, what the hub refuses, at the end of an address.
REFUSALS: dict[str, tuple[dict[str, tuple[int, str]], str]] = {
    "nothing": ({}, "no such file or folder, and no such repository on the hub"),
    "a--b": ({}, "no such file or folder, and no repository can have this name"),
    "tiny@v2": ({}, "the repository has no revision v2"),
    "secret": ({"/api/models/secret": (401, "")}, "the hub answered 401: the token may not read it"),
    "busy": ({"/api/models/busy": (503, "")}, "the hub answered 503: try again later"),
    "teapot": ({"/api/models/teapot": (418, "")}, "the hub answered 418"),
    "gated": (
        {"/gated/resolve/main/config.json": (401, "GatedRepo")},
        "access is granted on request: ask for it at http",
    ),
    "half": (
        {"/half/resolve/main/model.safetensors": (403, "")},
        "the hub answered 403: the token may not read it",
    ),
}


def test_refusals_of_the_hub(hub: HubServer, fetch_all: FetchAll) -> None:
    for name, (refusals, _) in REFUSALS.items():
        hub.refusals |= refusals
        if refusals:
            copied(hub, name)
    for (name, (_, expected)), answer in zip(REFUSALS.items(), fetch_all(REFUSALS, hub.url), strict=True):
        assert answer.get("field") == "source", (name, answer, hub.asked)
        assert str(answer["message"]).startswith(f"{name}: {expected}")
        assert "\n" not in str(answer["message"])


def test_a_cache_that_cannot_be_written(hub: HubServer, fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be", "utf-8")
    message = str(fetch("tiny", hub.url)["message"])
    assert "cannot be written to the cache" in message
    assert "HF_HOME" in message


def test_a_model_of_another_family_is_refused_before_its_weights(hub: HubServer, fetch: Fetch) -> None:
    config = hub.repositories / "tiny" / "config.json"
    config.write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}', "utf-8")
    assert fetch("tiny", hub.url)["field"] == "model_type"
    assert not [line for line in hub.asked if line.endswith("safetensors")]


def test_pickles_are_refused_before_anything_is_downloaded(hub: HubServer, fetch: Fetch) -> None:
    (hub.repositories / "tiny" / "model.safetensors").unlink()
    answer = fetch("tiny", hub.url)
    message = str(answer["message"])
    assert message.startswith("tiny: pytorch_model.bin: pickles are not opened")
    assert "hf download tiny --local-dir FOLDER && python -c" in message
    assert hub.asked == ["GET /api/models/tiny"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (requests.ConnectionError("a long story"), "the connection was lost (no connection): try again"),
        (requests.ReadTimeout(), "the connection was lost (no answer in time): try again"),
        (OSError(errno.ENOSPC, "No space left on device"), "(No space left on device): make room there"),
        (OSError("Consistency check failed: 3 bytes\nand more"), "failed: Consistency check failed: 3 bytes"),
        (RuntimeError(), "the download failed: RuntimeError"),
    ],
)
def test_downloads_that_fail(error: Exception, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    files = [SimpleNamespace(rfilename=name) for name in ("config.json", "model.safetensors")]
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: SimpleNamespace(siblings=files))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(ExportError) as caught:
        fetch_checkpoint(HubName("tiny"))
    assert caught.value.field == "source"
    assert expected in caught.value.message
    assert "\n" not in caught.value.message


def test_which_files_hold_the_weights() -> None:
    name = HubName("big")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = "model.safetensors.index.json"
    assert weight_files(name, ["config.json", index, *shards, "x/y.safetensors"]) == [index, *shards]
    with pytest.raises(CheckpointError, match=r"no config.json .* has a.txt, model.safetensors$"):
        weight_files(name, ["model.safetensors", "a.txt"])
    many = [f"{number}.msgpack" for number in range(12)]
    with pytest.raises(CheckpointError, match=r"no model.safetensors .* and 5 more$"):
        weight_files(name, ["config.json", *many])
    with pytest.raises(CheckpointError, match="which has no files"):
        weight_files(name, [])


def test_export_by_name(hub: HubServer, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "export", "owner/tagger", str(tmp_path / "out"), "--name", "tagger"],
        cwd=ROOT,
        env=environment(tmp_path / "cache", hub.url),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""  # no progress bar without a terminal
    assert Manifest.load(tmp_path / "out").provenance["source"] == f"hub: owner/tagger@{COMMIT}"
