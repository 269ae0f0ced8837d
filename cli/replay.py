"""`lmaas replay`: makes an answer again from its receipt, and says whether it is the same to the last bit."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli.command import AsJson, Url, fail
from cli.show import plain, print_json
from client.http import DEFAULT_URL, Client

CHOICE = ("index", "token_ids", "logprobs_sha256")
REQUEST = ("artifact", "variant", "kernels", "exact_on", "prompt_token_ids", "parameters", "choices")
# What a difference may come from, by `exact_on`.
LIMITS = {
    "any-processor": "",
    "same-processor": "; this receipt holds with the same instructions and the same ONNX Runtime",
    "not-promised": "; in this precision the last bits depend on what else runs",
}


def replay(
    receipt: Annotated[
        Path, typer.Argument(help="A receipt, or an answer that has one; - is standard input.")
    ],
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Make an answer again from its receipt, and compare every bit. Status 1: it is not the same."""
    given = _read(receipt)
    with Client(url) as client:
        results = [_replayed(client, given, request) for request in given["requests"]]
    equal = all(result["equal"] for result in results)
    if as_json:
        print_json({"equal": equal, "requests": results})
    else:
        for number, result in enumerate(results, start=1):
            where = f"prompt {number}: " if len(results) > 1 else ""
            print(plain(f"{where}{_in_words(result)}"))
    if not equal:
        raise typer.Exit(1)


def _read(path: Path) -> dict[str, Any]:
    """The receipt with its `requests`; that of a native client of Triton is one of these alone."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")
        data = json.loads(text)
    except (OSError, ValueError) as error:
        fail(f"{path}: no receipt can be read: {error}")
    if isinstance(data, dict) and isinstance(data.get("receipt"), dict):
        data = data["receipt"]
    if isinstance(data, dict) and "artifact" in data:
        data = {"requests": [data]}
    if not isinstance(data, dict) or not isinstance(data.get("requests"), list) or not data["requests"]:
        fail(f"{path}: neither a receipt nor an answer that has one: ask with `receipt: true`")
    for request in data["requests"]:
        _check(path, request, REQUEST)
        for choice in request["choices"]:
            _check(path, choice, CHOICE)
    return data


def _check(path: Path, part: Any, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not isinstance(part, dict) or name not in part]
    if missing:
        fail(f"{path}: the receipt lacks {', '.join(missing)}")


def _replayed(client: Client, given: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    deployment = _deployment(client, given, request)
    body = {
        **request["parameters"],
        "prompt": request["prompt_token_ids"],
        "model": deployment["model"],
        "version": deployment["version"],
        "receipt": True,
    }
    (found,) = client.call("POST", "/v1/generate", json=body)["receipt"]["requests"]
    if found["artifact"] != request["artifact"]:
        fail(f"{deployment['model']}/{deployment['version']} was replaced meanwhile; try again")
    difference = next(_differences(request["choices"], found["choices"]), None)
    return {
        "equal": difference is None,
        "difference": difference,
        "deployment": deployment["id"],
        "tokens": sum(len(choice["token_ids"]) for choice in request["choices"]),
        "kernels": found["kernels"],
        "kernels_of_receipt": request["kernels"],
        "exact_on": request["exact_on"],
    }


def _deployment(client: Client, given: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """One that has the artifact of the receipt."""
    artifact, variant = request["artifact"], request["variant"]
    for deployment in client.call("GET", "/v1/deployments")["data"]:
        if deployment["artifact"] == artifact:
            found: dict[str, Any] = deployment
            return found
    for model in client.call("GET", "/v1/models")["data"]:
        if model["id"] == given.get("model"):
            for version in model["versions"]:
                view = client.call("GET", f"/v1/models/{quote(model['id'], safe='')}/versions/{version}")
                if artifact in [item["artifact"] for item in view["variants"].values()]:
                    deploy = f"lmaas deploy {model['id']} --version {version} --precision {variant}"
                    fail(
                        f"version {version} of {model['id']} has the artifact, but is not deployed: {deploy}"
                    )
    named = f" ({given['model']}/{given['version']} in {variant})" if "version" in given else f" ({variant})"
    fail(f"no deployment has the artifact {artifact}{named}: push the model and deploy it first")


def _differences(expected: list[Any], found: list[Any]) -> Iterator[dict[str, Any]]:
    """In the order of the choices: the first token that differs, else what else does."""
    if len(expected) != len(found):
        yield {"choice": None, "what": f"{len(expected)} choices in the receipt, {len(found)} now"}
    for one, other in zip(expected, found, strict=False):
        here = {"choice": one["index"]}
        tokens, others = one["token_ids"], other["token_ids"]
        for position, (token, another) in enumerate(zip(tokens, others, strict=False)):
            if token != another:
                yield {**here, "position": position, "receipt": token, "now": another, "what": "token"}
        if len(tokens) != len(others):
            shorter = min(len(tokens), len(others))
            sides = {"receipt": tokens[shorter : shorter + 1], "now": others[shorter : shorter + 1]}
            yield {**here, "position": shorter, **{name: (side or [None])[0] for name, side in sides.items()},
                   "what": "token"}  # fmt: skip
        if one["logprobs_sha256"] != other["logprobs_sha256"]:
            yield {**here, "what": "the tokens are equal, their log-probabilities are not"}
        if one.get("finish_reason") != other["finish_reason"]:
            yield {**here, "what": f"ended by {one.get('finish_reason')}, now by {other['finish_reason']}"}


def _in_words(result: Mapping[str, Any]) -> str:
    kernels = f"computed by {result['kernels']}, at the time by {result['kernels_of_receipt']}"
    found = result["difference"]
    if found is None:
        return f"equal: {result['tokens']} tokens and their log-probabilities, to the last bit; {kernels}"
    what = found["what"]
    if what == "token":
        sides = ["the end" if found[side] is None else str(found[side]) for side in ("receipt", "now")]
        what = f"at token {found['position'] + 1} the receipt has {sides[0]}, now it is {sides[1]}"
    choice = f" (choice {found['choice']})" if found["choice"] else ""
    return f"differs{choice}: {what}; {kernels}{LIMITS.get(result['exact_on'], '')}"
