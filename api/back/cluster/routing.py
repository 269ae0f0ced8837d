"""Which deployment a request goes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from api.back.cluster.live import LiveDeployment
from api.back.cluster.messages import RETRY_SECONDS
from api.back.cluster.records import Target
from api.back.store.records import DeploymentState
from api.errors import InvalidInput, NotFound, Unavailable
from runtime.contract import Kind


def choose_version(deployed: Iterable[LiveDeployment], model: str, version: int) -> LiveDeployment:
    """The deployment of one version. Raises NotFound (`model`, `version`)."""
    of_model = [live for live in deployed if live.record.model == model]
    for live in of_model:
        if live.held == (model, version):
            return live
    if not of_model:
        raise _not_deployed(model)
    raise NotFound(f"model {model!r} version {version} is not deployed", "version")


def choose_of_model(deployed: Iterable[LiveDeployment], model: str) -> LiveDeployment:
    """One of a model's deployments, by traffic weight. Raises NotFound (`model`), Unavailable."""
    candidates = [live for live in deployed if live.record.model == model]
    if not candidates:
        raise _not_deployed(model)
    weighted = [live for live in candidates if live.record.traffic_weight > 0]
    if not weighted:
        raise Unavailable(f"every deployment of model {model!r} has traffic weight 0", RETRY_SECONDS)
    ready = [live for live in weighted if live.record.state is DeploymentState.READY]
    return _take_turn(ready) if ready else weighted[0]


def choose_of_kind(
    deployed: Iterable[LiveDeployment],
    kind: Kind,
    fallback: Kind | None,
    suits: Callable[[Target], bool] | None,
) -> LiveDeployment:
    """The oldest deployment of `kind`, else of `fallback`; it shares with its model's others by weight.

    Raises NotFound, Unavailable.
    """
    known = list(deployed)
    for wanted in (kind, fallback):
        fit = [live for live in known if live.target.kind is wanted and (suits is None or suits(live.target))]
        if fit:
            return choose_of_model(fit, fit[0].record.model)
    kinds = kind.value if fallback is None else f"{kind.value} or {fallback.value}"
    raise NotFound(f"no model of kind {kinds} that could answer this is deployed")


def require_kind(live: LiveDeployment, kind: Kind, fallback: Kind | None) -> None:
    """Raises InvalidInput (`model`)."""
    found = live.target.kind
    if found not in (kind, fallback):
        kinds = kind.value if fallback is None else f"{kind.value} or {fallback.value}"
        raise InvalidInput.of(
            "model", f"{live.record.model!r} is of kind {found.value}; this task needs kind {kinds}"
        )


def _not_deployed(model: str) -> NotFound:
    return NotFound(f"model {model!r} is not deployed", "model")


def _take_turn(candidates: list[LiveDeployment]) -> LiveDeployment:
    """Smooth weighted round robin, as nginx does it: shares come out exactly, and evenly spread."""
    for live in candidates:
        live.share += live.record.traffic_weight
    chosen = max(candidates, key=lambda live: live.share)
    chosen.share -= sum(live.record.traffic_weight for live in candidates)
    return chosen
