"""A running deployment over HTTP: the same answers that every caller gets."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import quote, urlsplit

import numpy as np
import tokenizers

from client.errors import RefusedError
from client.http import Client, is_loopback
from runtime.contract import TOKENIZER_FILE, Kind, Variant
from runtime.heads import HeadAnswer, HeadInput
from runtime.manifest import MANIFEST_FILE, Manifest
from runtime.messages import Slot
from runtime.text import as_served
from train.evaluation.artifact import required_separator
from train.evaluation.errors import EvaluationError
from train.evaluation.process import tree_usage
from train.evaluation.target import Description, Floats, HeadTarget, LanguageTarget, Target, Usage

ENTAILMENT = "entailment"
BUSY = (429, 503)
TRIES, PAUSE_SECONDS = 30, 1.0  # where the appliance has no room for a request now


@contextmanager
def open_deployment(name: str, url: str, *, raw_scores: bool = False) -> Iterator[Target]:
    """`name` is MODEL or MODEL/VERSION. `raw_scores`: without the version's calibration.

    Raises EvaluationError and the family of client/errors.py.
    """
    with Client(url) as client:
        deployed = _deployment(client, name)
        path = f"/v1/models/{quote(deployed['model'], safe='')}/versions/{deployed['version']}"
        version = client.call("GET", path)
        files = _files(client, f"{path}/archive")
        manifest = Manifest.from_json(files[MANIFEST_FILE])
        calibration = None if raw_scores else version.get("calibration")
        about = Description(
            f"{deployed['model']}/{deployed['version']} at {url}",
            "deployment",
            manifest.kind,
            manifest.problem_type,
            manifest.labels,
            deployed["precision"],
            deployed["version"],
            manifest.variants[Variant(deployed["precision"])].size,
            threshold=calibration["threshold"] if calibration else None,
        )
        asked = _Asked(client, deployed["model"], deployed["version"], url, raw_scores=raw_scores)
        if manifest.kind is Kind.LM:
            yield DeployedLanguage(about, asked, manifest, files[TOKENIZER_FILE])
        else:
            yield DeployedHead(about, asked)


def _deployment(client: Client, name: str) -> dict[str, Any]:
    """Raises EvaluationError unless there is one deployment of this name that is ready."""
    model, _, version = name.partition("/")
    served = [each for each in client.call("GET", "/v1/deployments")["data"] if each["model"] == model]
    if version:
        if not version.isdigit():
            path = f"/v1/models/{quote(model, safe='')}/versions/{quote(version, safe='')}"
            version = str(client.call("GET", path)["version"])
        served = [each for each in served if str(each["version"]) == version]
    if not served:
        raise EvaluationError(
            f"{name}: neither a folder nor a deployed model; `lmaas deploy {model}` deploys a stored one"
        )
    if len(served) > 1:
        known = ", ".join(f"{model}/{each['version']}" for each in served)
        raise EvaluationError(f"{name}: several versions are deployed; name one of {known}")
    return cast("dict[str, Any]", served[0])


def _files(client: Client, archive: str) -> dict[str, bytes]:
    """The manifest and the tokenizer, without the weights before them."""
    found = {}
    with client.open(archive) as remote, tarfile.open(fileobj=remote, mode="r:") as tar:
        for member in tar:
            name = member.name.rpartition("/")[2]
            if name in (MANIFEST_FILE, TOKENIZER_FILE) and (file := tar.extractfile(member)) is not None:
                found[name] = file.read()
    return found


class _Asked:
    """Requests to one version."""

    def __init__(self, client: Client, model: str, version: int, url: str, *, raw_scores: bool) -> None:
        self._client = client
        self._common = {"model": model, "version": version}
        self._raw = {"raw_scores": True} if raw_scores else {}
        self._pids = _processes(client) if is_loopback(urlsplit(url).hostname or "") else []

    def post(self, path: str, **body: Any) -> Any:
        for left in range(TRIES, 0, -1):
            try:
                return self._client.call("POST", path, json={**self._common, **body})
            except RefusedError as error:  # noqa: PERF203 - trying again is the point
                if error.status not in BUSY or left == 1:
                    raise EvaluationError(f"the appliance refused a request: {error}") from None
                time.sleep(PAUSE_SECONDS)
        raise AssertionError

    def results(self, path: str, **body: Any) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self.post(path, **body, **self._raw)["results"])

    def usage(self) -> Usage:
        return tree_usage(self._pids)


def _processes(client: Client) -> list[int]:
    """The Tritons of this machine, with a process of each model below them; none if the key may not ask."""
    try:
        servers = client.call("GET", "/v1/servers")["data"]
    except RefusedError:
        return []
    return [server["pid"] for server in servers if server["pid"] is not None]


class DeployedHead(HeadTarget):
    def __init__(self, about: Description, asked: _Asked) -> None:
        self.about = about
        self._asked = asked
        self._judges_pairs = ENTAILMENT in (label.lower() for label in about.labels)

    def answers(self, inputs: Sequence[HeadInput]) -> list[HeadAnswer]:
        if self.about.kind is Kind.NLU:
            return [
                self._answer(
                    result["intents"],
                    [Slot.from_json(slot) for slot in result["slots"]],
                )
                for result in self._asked.results("/v1/nlu", input=[item.text for item in inputs])
            ]
        return [self._answer(result["scores"], None) for result in self._classified(inputs)]

    def _classified(self, inputs: Sequence[HeadInput]) -> list[dict[str, Any]]:
        pairs = [item.text_pair is not None for item in inputs]
        if not any(pairs):
            return self._asked.results("/v1/classify", input=[item.text for item in inputs])
        if not all(pairs) or not self._judges_pairs:
            raise EvaluationError("the API takes pairs of texts only for models with the label entailment")
        listed = [{"premise": item.text, "hypothesis": item.text_pair} for item in inputs]
        return self._asked.results("/v1/infer", pairs=listed)

    def _answer(self, scores: Sequence[Mapping[str, Any]], slots: list[Slot] | None) -> HeadAnswer:
        """Scores in the order of the labels, which `infer` writes in lower case."""
        by_label = {each["label"]: each["score"] for each in scores}
        values = np.array(
            [by_label.get(label, by_label.get(label.lower())) for label in self.about.labels], np.float32
        )
        best = self.about.labels[int(values.argmax())] if len(values) else ""
        return HeadAnswer(values, best, slots)

    def usage(self) -> Usage:
        return self._asked.usage()


class DeployedLanguage(LanguageTarget):
    def __init__(self, about: Description, asked: _Asked, manifest: Manifest, tokenizer: bytes) -> None:
        self.about = about
        self._asked = asked
        self.tokenizer = as_served(tokenizers.Tokenizer.from_buffer(tokenizer))
        self.context_length = manifest.architecture.context_length
        self.separator = required_separator(about.name, manifest.architecture.eos_token_id)

    def logprobs(self, rows: Sequence[Sequence[int]]) -> list[Floats]:
        """By `echo` with `logprobs`, as OpenAI's completions and vLLM give them."""
        answer = self._asked.post(
            "/v1/generate", prompt=[list(row) for row in rows], max_tokens=0, echo=True, logprobs=0
        )
        return [
            np.array([token["logprob"] for token in choice["logprobs"][1:]], np.float64)
            for choice in answer["choices"]
        ]

    def usage(self) -> Usage:
        return self._asked.usage()
