"""`lmaas models`, `deploy`, `undeploy`, `deployments`: the life of a model on a running appliance."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli.command import AsJson, Url, fail
from cli.completion import deployed_names, model_names
from cli.show import plain, print_json, print_listing, print_table, quality, size
from client.http import DEFAULT_URL, Client
from runtime.contract import MODEL_NAME, model_name

models = typer.Typer(help="List, show, upload, download and delete models.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The model's name.", autocompletion=model_names)]
Force = Annotated[bool, typer.Option("--force", help="Deploy also beyond the quality budget.")]
ModelVersion = Annotated[str, typer.Option("--version", help="A version number or an alias.")]


def model_path(name: str, version: str | None = None) -> str:
    path = f"/v1/models/{quote(name, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"


@models.command("ls")
def list_models(as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """List the models."""
    with Client(url) as client:
        answer = client.call("GET", "/v1/models")
    print_listing(
        answer,
        as_json,
        ("model", "kind", "versions", "serving"),
        lambda model: (
            model["id"],
            model["kind"],
            ", ".join(map(str, model["versions"])),
            ", ".join(model["serving"]),
        ),
        "no models yet; `lmaas models push NAME FOLDER` adds one",
    )


@models.command("show")
def show_model(
    name: Name, version: ModelVersion = "latest", as_json: AsJson = False, url: Url = DEFAULT_URL
) -> None:
    """Show one version: state, variants, sizes, quality."""
    with Client(url) as client:
        answer = client.call("GET", model_path(name, version))
    if as_json:
        print_json(answer)
        return
    print(f"{name} version {answer['version']}: {answer['kind']}, {answer['state']}")
    if (calibration := answer["calibration"]) is not None:
        threshold = calibration["threshold"]
        under = "no threshold" if threshold is None else f"abstains under {threshold:g}"
        print(f"calibrated: temperature {calibration['temperature']:g}, {under}")
    if notes := answer["provenance"].get("notes"):
        print(plain(f"notes: {notes}"))
    rows = [
        (
            precision,
            size(variant["size"]),
            f"{variant['load_seconds']:.2f} s",
            quality(variant["quality"]),
        )
        for precision, variant in answer["variants"].items()
    ]
    print_table(("variant", "size", "load", "against fp32"), rows, answer["error"] or "not converted yet")


@models.command("push")
def push_model(
    name: Name,
    source: Annotated[Path, typer.Argument(help="A checkpoint's folder, or an archive of one.", exists=True)],
    deploy_it: Annotated[bool, typer.Option("--deploy", help="Deploy it once converted.")] = False,
    precision: Annotated[
        str | None, typer.Option(help="With --deploy: auto, fp32, fp16, int8 or int4.")
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(help="A LoRA of PEFT to merge into it: a folder.", exists=True, file_okay=False),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Upload a checkpoint and follow its conversion to the end.

    An upload that was cut off goes on where it ended when the command is run again.
    """
    legal = name if MODEL_NAME.fullmatch(name) else model_name(name)
    if legal != name and not as_json:
        print(plain(f"{name} is served as {legal}: a name has small letters, digits and . _ -"))
    with Client(url) as client, tempfile.TemporaryDirectory() as scratch:
        archive = source
        if source.is_dir() or adapter is not None:
            archive = Path(scratch) / f"{legal}.tar.gz"
            _pack(source, adapter, archive, quiet=as_json)
        body = {"name": legal, "blob": client.upload(archive), "deploy": deploy_it, "force": force}
        if precision is not None:
            body["precision"] = precision
        accepted = client.call("POST", "/v1/models", json=body)
        task = follow_task(client, accepted["task"], quiet=as_json)
    if as_json:
        print_json({**accepted, "task": task})
    if task["state"] != "done":
        fail((task.get("error") or {}).get("detail", f"the conversion ended as {task['state']}"))
    if not as_json:
        result = task["result"]
        served = f" and serves in {result['precision']}" if result["precision"] else ""
        print(f"{legal} version {accepted['version']} is ready{served}")
        for note in filter(None, (result["note"], result.get("notes"))):
            print(plain(note))


def _pack(source: Path, adapter: Path | None, archive: Path, *, quiet: bool) -> None:
    """Pack what an export reads, with the adapter merged into it; says what is left out."""
    from export.archive import pack_folder
    from export.errors import ExportError
    from export.members import ArchiveLimits
    from export.source import merged, open_source

    scratch = archive.parent
    try:
        with (
            open_source(source, scratch / "unpacked", ArchiveLimits()) as opened,
            merged(opened, adapter, scratch / "merged") as found,
        ):
            pack_folder(found.folder, archive)
    except ExportError as error:
        fail(plain(str(error)))
    for note in () if quiet else found.notes:
        print(plain(f"note: {note}"))


def follow_task(client: Client, task: dict[str, Any], quiet: bool) -> dict[str, Any]:
    """Show a task's progress until it has its outcome; returns its last record."""
    if task["state"] in ("queued", "running"):
        for event, data in client.events("GET", f"/v1/tasks/{task['id']}/events"):
            if event == "progress" and not quiet:
                print(f"  {data['stage']} {data['done']}/{data['total']}")
    record: dict[str, Any] = client.call("GET", f"/v1/tasks/{task['id']}")
    return record


@models.command("pull")
def pull_model(
    name: Name,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write the .tar.")] = None,
    version: ModelVersion = "latest",
    url: Url = DEFAULT_URL,
) -> None:
    """Download a version's artifact."""
    target = output or Path(f"{name}.tar")
    with Client(url) as client:
        written = client.download(f"{model_path(name, version)}/archive", str(target))
    print(f"{target} ({size(written)})")


@models.command("history")
def model_history(name: Name, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """List who deployed, scaled, undeployed, deleted or gave an alias to which version."""
    with Client(url) as client:
        answer = client.call("GET", f"{model_path(name)}/history")
    print_listing(
        answer,
        as_json,
        ("when", "who", "action", "version", "precision", "replicas", "alias"),
        lambda entry: (
            entry["at"][:19],
            entry["name"] or entry["actor"],
            entry["action"],
            entry["version"],
            entry["precision"],
            entry["replicas"],
            entry["alias"],
        ),
        "nothing was done with it yet",
    )


@models.command("uncalibrate")
def remove_calibration(name: Name, version: ModelVersion = "latest", url: Url = DEFAULT_URL) -> None:
    """Let a version's scores be as the model gives them; `lmaas calibrate` corrects them."""
    with Client(url) as client:
        client.call("DELETE", f"{model_path(name, version)}/calibration")
    print(f"{name} version {version}: its scores are as the model gives them")


@models.command("rm")
def remove_model(
    name: Name,
    version: Annotated[str | None, typer.Option("--version", help="Only this version.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Undeploy it first.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Delete a model, or one version of it."""
    with Client(url) as client:
        client.call("DELETE", model_path(name, version), params={"force": True} if force else None)
    print(f"{name}{f' version {version}' if version else ''} deleted")


def deploy(
    model: Name,
    version: ModelVersion = "latest",
    precision: Annotated[str, typer.Option(help="auto, fp32, fp16, int8 or int4.")] = "auto",
    replicas: Annotated[int, typer.Option(help="On how many model servers.", min=1)] = 1,
    max_replicas: Annotated[
        int | None,
        typer.Option(help="Let the number of replicas follow the load, up to this one.", min=1),
    ] = None,
    min_replicas: Annotated[
        int, typer.Option(help="With --max-replicas: down to this one; 0: none while nothing arrives.", min=0)
    ] = 1,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="In place of what the model serves now, without a failed request."),
    ] = False,
    apply: Annotated[
        bool,
        typer.Option(
            "--apply", help="Deploy it, or change what the model serves now; a second time does nothing."
        ),
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Load a version into one model server, or more."""
    body: dict[str, Any] = {"version": version, "precision": precision, "force": force}
    if max_replicas is not None:
        body["autoscale"] = {"min": min_replicas, "max": max_replicas}
    with Client(url) as client:
        if apply and _deployments(client, model):
            wanted = body if max_replicas is not None else {**body, "replicas": replicas}
            record = client.call("PATCH", f"/v1/deployments/{only_deployment(client, model)}", json=wanted)
        elif replace:
            record = client.call("PATCH", f"/v1/deployments/{only_deployment(client, model)}", json=body)
        else:
            record = client.call(
                "POST", "/v1/deployments", json={**body, "model": model, "replicas": replicas}
            )
    if as_json:
        print_json(record)
    else:
        print(
            f"{record['model']} version {record['version']} serves in {record['precision']} ({record['id']})"
        )
        if record["note"]:
            print(record["note"])


def only_deployment(client: Client, model: str) -> str:
    """The id of what the model serves; ends the command where that is not one deployment."""
    found = _deployments(client, model)
    if len(found) != 1:
        fail(f"{model} has {len(found)} deployments; --replace and --apply are for a model that has one")
    return str(found[0]["id"])


def _deployments(client: Client, model: str) -> list[Any]:
    return [item for item in client.call("GET", "/v1/deployments")["data"] if item["model"] == model]


def undeploy(
    deployment: Annotated[
        str,
        typer.Argument(
            help="A deployment's id, or a model's name for all of its deployments.",
            autocompletion=deployed_names,
        ),
    ],
    url: Url = DEFAULT_URL,
) -> None:
    """Unload a deployment once its running requests have ended."""
    with Client(url) as client:
        records = client.call("GET", "/v1/deployments")["data"]
        matching = [record for record in records if deployment in (record["id"], record["model"])]
        if not matching:
            fail(f"no deployment has the id or model {deployment!r}; `lmaas deployments` lists them")
        for record in matching:
            client.call("DELETE", f"/v1/deployments/{record['id']}")
            print(f"{record['model']} version {record['version']} ({record['id']}) undeployed")


def deployments(as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """List what is deployed."""
    with Client(url) as client:
        answer = client.call("GET", "/v1/deployments")
    print_listing(
        answer,
        as_json,
        ("id", "model", "version", "precision", "state", "servers"),
        lambda record: (
            record["id"],
            record["model"],
            record["version"],
            record["precision"],
            record["state"],
            ", ".join(record["servers"]),
        ),
        "nothing is deployed; `lmaas deploy MODEL` does it",
    )
