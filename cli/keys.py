"""`lmaas keys`: API keys, in the database of LMAAS_HOME or LMAAS_DATABASE_URL. A server may run meanwhile."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cli.command import AsJson, fail
from cli.local import on_database, record_change
from cli.show import plain, print_json, print_table

if TYPE_CHECKING:
    from api.back.store.database import Database
    from api.back.store.keys import KeyStore
    from api.back.store.records import KeyRecord
    from api.caller import Limits, Scope
    from api.config import Settings

keys = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)

Result = TypeVar("Result")
SPAN = re.compile(r"([1-9][0-9]{0,4})([mhd])")
UNITS = {"m": "minutes", "h": "hours", "d": "days"}
AtLeastOne = Annotated[int | None, typer.Option(min=1, max=1_000_000_000, show_default=False)]
Name = Annotated[str, typer.Argument(help="Whose key it is: a person or a program.")]
ScopeNames = Annotated[
    str,
    typer.Option(
        help="What it may do, by commas: infer, tasks, models:read, models:write, metrics, admin;"
        " inference is the first three together, admin is all of them."
    ),
]
Expires = Annotated[
    str | None, typer.Option(help="After a time, as 30d, 12h or 90m, or at a date, as 2027-01-31.")
]
ModelNames = Annotated[
    str | None, typer.Option(help="The only models that it may use, by commas.", show_default=False)
]

KeyFile = Annotated[
    Path | None,
    typer.Option(
        help="A file with the key, which was made elsewhere, as for a Secret of Kubernetes. Where the key"
        " is there already, nothing is done.",
        exists=True,
        dir_okay=False,
    ),
]


@keys.command("create")
def create(
    name: Name,
    scopes: ScopeNames = "inference",
    expires: Expires = None,
    models: ModelNames = None,
    requests_per_minute: AtLeastOne = None,
    tokens_per_minute: AtLeastOne = None,
    max_in_flight: AtLeastOne = None,
    max_queued: AtLeastOne = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it, once: it is kept nowhere.

    It is valid at once. A server on a loopback address asks everybody for a key as soon as the first exists.
    """
    from api.caller import Limits

    limits = Limits(
        max_queued=max_queued,
        max_in_flight=max_in_flight,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        models=None if models is None else frozenset(_names("--models", models)),
    )
    wanted, moment = _scopes(scopes), None if expires is None else _moment(expires)
    given = None if key_file is None else key_file.read_text().strip()
    record, key = _change("keys create", lambda store: store.create(name, wanted, limits, moment, given))
    if as_json:
        print_json({**_as_json(record), "key": key})
        return
    if given is not None:
        print(f"{record.id} ({plain(record.name)}) is {_state(record)}")
        return
    sys.stderr.write(f"lmaas: this is the key of {plain(name)}; keep it now, it is not shown again:\n")
    print(key)


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the keys, without their secrets."""
    records = _run(lambda store: store.list())
    if as_json:
        print_json([_as_json(record) for record in records])
        return
    rows = [
        (
            record.id,
            record.name,
            _state(record),
            " ".join(_scope_names(record.scopes)),
            ", ".join(f"{name} {value}" for name, value in _limits(record.limits).items()),
            f"{record.created:%Y-%m-%d %H:%M}",
            record.expires and f"{record.expires:%Y-%m-%d %H:%M}",
        )
        for record in records
    ]
    columns = ("key", "name", "state", "scopes", "limits", "created (UTC)", "expires")
    print_table(columns, rows, "no keys; `lmaas keys create NAME` makes one")


@keys.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `lmaas keys list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Make a key invalid. A server that runs refuses it within seconds."""

    async def work(store: KeyStore) -> tuple[KeyRecord, str]:
        return await store.revoke(key_id), ""

    record, _ = _change("keys revoke", work)
    if as_json:
        print_json(_as_json(record))
    else:
        print(f"{record.id} ({plain(record.name)}) is revoked")


def _run(work: Callable[[KeyStore], Awaitable[Result]]) -> Result:
    """Do it on the database of the settings; an error ends the command with one line."""
    from api.back.store.keys import KeyStore

    return on_database(lambda database, _: work(KeyStore(database)))


def _change(
    action: str, work: Callable[[KeyStore], Awaitable[tuple[KeyRecord, str]]]
) -> tuple[KeyRecord, str]:
    """As `_run`, with an entry in the audit log."""
    from api.back.store.keys import KeyStore

    async def recorded(database: Database, settings: Settings) -> tuple[KeyRecord, str]:
        record, key = await work(KeyStore(database))
        await record_change(database, settings, action, record.id)
        return record, key

    return on_database(recorded)


def _scopes(text: str) -> frozenset[Scope]:
    from api.caller import SCOPE_GROUPS, Scope

    known = {scope.value: frozenset({scope}) for scope in Scope} | SCOPE_GROUPS
    names = _names("--scopes", text)
    for name in names:
        if name not in known:
            fail(f"--scopes: {name!r} is not one of {', '.join(known)}")
    return frozenset[Scope]().union(*(known[name] for name in names))


def _scope_names(scopes: frozenset[Scope]) -> list[str]:
    from api.caller import SCOPE_GROUPS

    for name, group in SCOPE_GROUPS.items():
        if scopes == group:
            return [name]
    return sorted(scope.value for scope in scopes)


def _names(option: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    return names or fail(f"{option}: name one or more, by commas")


def _moment(text: str) -> datetime:
    """A span from now, or a date or time of ISO 8601, in UTC where it names no zone."""
    span = SPAN.fullmatch(text)
    if span is not None:
        return datetime.now(timezone.utc) + timedelta(**{UNITS[span[2]]: int(span[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--expires: {text!r} is neither a time like 30d, 12h or 90m nor a date like 2027-01-31")
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _state(record: KeyRecord) -> str:
    if record.revoked is not None:
        return "revoked"
    return "valid" if record.refusal(datetime.now(timezone.utc)) is None else "expired"


def _limits(limits: Limits) -> dict[str, Any]:
    found = {name: getattr(limits, name) for name in type(limits).__slots__}
    shown = {name: value for name, value in found.items() if value is not None}
    return {**shown, "models": sorted(shown["models"])} if "models" in shown else shown


def _as_json(record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "state": _state(record),
        "scopes": sorted(scope.value for scope in record.scopes),
        "limits": _limits(record.limits),
        "created": record.created.isoformat(),
        "expires": record.expires and record.expires.isoformat(),
        "revoked": record.revoked and record.revoked.isoformat(),
    }
