"""`lmaas generate`, `classify`, `infer`, `nlu`: the four task APIs from a terminal."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from cli.command import AsJson, Url, fail
from cli.completion import model_names
from cli.show import print_json, print_table
from client.http import DEFAULT_URL, Client

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="A model's name; without it, the default.", autocompletion=model_names
    ),
]


def text_or_input(text: str) -> str:
    """`-` reads standard input, so that a text can be piped in."""
    return sys.stdin.read() if text == "-" else text


def given(**fields: Any) -> dict[str, Any]:
    """The fields that the caller set; the server's defaults serve for the rest."""
    return {name: value for name, value in fields.items() if value is not None}


def generate(
    prompt: Annotated[str, typer.Argument(help="The text to go on from; - reads standard input.")],
    model: Model = None,
    max_tokens: Annotated[int | None, typer.Option(help="The largest number of new tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample among the k likeliest.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample within this probability mass.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Write on from a prompt, streaming to the terminal."""
    prompt = text_or_input(prompt)
    body = given(
        prompt=prompt, model=model, max_tokens=max_tokens, temperature=temperature,
        top_k=top_k, top_p=top_p, stop=stop or None, seed=seed,
    )  # fmt: skip
    with Client(url) as client:
        if as_json:
            print_json(client.call("POST", "/v1/generate", json=body))
            return
        sys.stdout.write(prompt)
        for event, data in client.events("POST", "/v1/generate", json={**body, "stream": True}):
            if event == "error":
                print()
                fail(data["detail"])
            for choice in data.get("choices", ()):
                sys.stdout.write(choice["text"])
                sys.stdout.flush()
        print()


def classify(
    text: Annotated[str, typer.Argument(help="The text to label; - reads standard input.")],
    labels: Annotated[
        str | None, typer.Option(help="Comma-separated labels, for a model without a head.")
    ] = None,
    model: Model = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Label a text."""
    choices = [label.strip() for label in labels.split(",")] if labels else None
    body = given(input=text_or_input(text), labels=choices, model=model)
    with Client(url) as client:
        print_scores(client.call("POST", "/v1/classify", json=body), as_json)


def infer(
    premise: Annotated[str, typer.Argument(help="What is given.")],
    hypothesis: Annotated[str, typer.Argument(help="What may follow from it.")],
    model: Model = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Say whether a hypothesis follows from a premise, contradicts it, or neither."""
    body = given(premise=premise, hypothesis=hypothesis, model=model)
    with Client(url) as client:
        print_scores(client.call("POST", "/v1/infer", json=body), as_json)


def print_scores(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    for result in answer["results"]:
        rows = [(score["label"], f"{score['score']:.3f}") for score in result["scores"]]
        print_table(("label", "score"), rows, "no labels")
        print_abstained(result)


def print_abstained(result: dict[str, Any]) -> None:
    if result["abstained"]:
        print("abstained: the highest score is under the version's threshold")


def nlu(
    text: Annotated[str, typer.Argument(help="What a user said; - reads standard input.")],
    model: Model = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Find the intent of an utterance and the values in it."""
    with Client(url) as client:
        answer = client.call("POST", "/v1/nlu", json=given(input=text_or_input(text), model=model))
    if as_json:
        print_json(answer)
        return
    for result in answer["results"]:
        print_understood(result)


def print_understood(result: dict[str, Any]) -> None:
    if (intent := result["intent"]) is not None:  # a model may tag slots alone
        print(f"{intent['label']}  {intent['score']:.3f}")
        print_abstained(result)
    rows = [
        (slot["name"], slot["value"], f"{slot['start']}-{slot['end']}", f"{slot['score']:.3f}")
        for slot in result["slots"]
    ]
    print_table(("slot", "value", "characters", "score"), rows, "no slots")
