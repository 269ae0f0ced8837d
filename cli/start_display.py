"""What `lmaas up` prints while it starts: a line for each stage, and at the end the addresses."""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from api.middle.startup import Appliance
    from cli.start_checks import Checked

CURL_BODY = '{"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0.7, "top_p": 0.9}'


@dataclass(frozen=True, slots=True)
class Serving:
    """What an appliance that is ready says of itself."""

    deployments: list[str]  # a line each
    not_imported: list[str]  # bundled models, each with the reason
    kernels: list[str]  # what computes int8 on the servers

    @classmethod
    def of(cls, appliance: Appliance) -> Serving:
        lines = [
            f"{record.model:<16} version {record.version}, {record.variant.value}, {record.state.value}"
            for record in appliance.service.models.deployments()
        ]
        kernels = {server.kernels for server in appliance.service.servers()}
        return cls(lines, appliance.not_imported, sorted(filter(None, kernels)))


Show = Callable[[str, str, Serving | None], None]  # stage, message, and at the end what is served


class StartDisplay:
    """Prints the stages of the start, one line each, and at the end the addresses."""

    def __init__(self, url: str, *facades: str, silent: bool, keyed: bool) -> None:
        """`silent`: the log alone has the stages. `keyed`: callers need an API key.

        Where several façades serve at `url`, `facades` are the addresses of each one alone.
        """
        self._silent = silent
        self._url = url
        self._keyed = keyed
        self._facades = facades
        self._begin: float = psutil.Process().create_time()  # imports count: the user waits for them too
        if not silent:
            printed_stages()

    @classmethod
    def of(cls, checked: Checked) -> StartDisplay:
        return cls(*checked.urls, silent=checked.settings.log_format == "json", keyed=checked.keyed)

    def show(self, stage: str, message: str, serving: Serving | None = None) -> None:
        """`serving`: the start is over, of all façades."""
        if self._silent:
            return
        if stage != "failed":
            print(f"  {time.time() - self._begin:5.1f} s  {message}", flush=True)
        if serving is not None:
            print(self.banner(serving), flush=True)

    def banner(self, serving: Serving) -> str:
        head = "\nLMaaS is ready.\n"
        if serving.not_imported:
            listed = "\n".join(f"  {message}" for message in serving.not_imported)
            head = f"\nLMaaS is ready, but bundled models were not imported:\n\n{listed}\n"
        where = f"  API      {self._url}\n  docs     {self._url}/docs\n"
        # At the address of all of them, /metrics answers for the one that happens to take the request.
        where += "".join(f"  metrics  {url}/metrics\n" for url in self._facades or [self._url])
        if serving.kernels:
            where += f"  kernels  {', '.join(serving.kernels)}\n"
        if not serving.deployments:
            return f"{head}\n{where}\n  no models yet: lmaas models push NAME FOLDER --deploy\n"
        models = "\n".join(f"    {line}" for line in serving.deployments)
        key = ' -H "authorization: Bearer $LMAAS_API_KEY"' if self._keyed else ""
        asked = f"-H 'content-type: application/json' -d {shlex.quote(CURL_BODY)}"
        curl = f"curl -s {self._url}/v1/generate{key} {asked}"
        return f"{head}\n{where}\n  models\n{models}\n\n  {curl}\n"


def report(stage: str, message: str, serving: Serving | None = None) -> None:
    """Print it as one JSON object, for the process that started this one among several façades."""
    found = None if serving is None else asdict(serving)
    print(json.dumps({"stage": stage, "message": message, "serving": found}), flush=True)


def printed_stages() -> None:
    """The log does not repeat the stages that are printed."""
    logging.getLogger("api.middle.startup").setLevel(logging.WARNING)
