"""Which deployment a request goes to, and which of its replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from api.back.cluster.deployment import Deployment
from api.back.cluster.messages import RETRY_SECONDS
from api.back.cluster.records import Target
from api.back.cluster.replica import Replica
from api.errors import InvalidInput, NotFound, Unavailable
from runtime.contract import Kind


def choose_version(deployed: Iterable[Deployment], model: str, version: int) -> Deployment:
    """The deployment of one version. Raises NotFound (`model`, `version`)."""
    of_model = [item for item in deployed if item.record.model == model]
    for item in of_model:
        if item.version == (model, version):
            return item
    if not of_model:
        raise _not_deployed(model)
    raise NotFound(f"model {model!r} version {version} is not deployed", "version")


def choose_of_model(deployed: Iterable[Deployment], model: str) -> Deployment:
    """One of a model's deployments, by traffic weight. Raises NotFound (`model`), Unavailable."""
    candidates = [item for item in deployed if item.record.model == model]
    if not candidates:
        raise _not_deployed(model)
    weighted = [item for item in candidates if item.record.traffic_weight > 0]
    if not weighted:
        raise Unavailable(f"every deployment of model {model!r} has traffic weight 0", RETRY_SECONDS)
    serving = [item for item in weighted if item.serves]
    return _take_turn(serving) if serving else weighted[0]


def choose_of_kind(
    deployed: Iterable[Deployment],
    kind: Kind,
    fallback: Kind | None,
    suits: Callable[[Target], bool] | None,
) -> Deployment:
    """The oldest deployment of `kind`, else of `fallback`; it shares with its model's others by weight.

    Raises NotFound, Unavailable.
    """
    known = list(deployed)
    for wanted in (kind, fallback):
        fit = [item for item in known if item.target.kind is wanted and (suits is None or suits(item.target))]
        if fit:
            return choose_of_model(fit, fit[0].record.model)
    kinds = kind.value if fallback is None else f"{kind.value} or {fallback.value}"
    raise NotFound(f"no model of kind {kinds} that could answer this is deployed")


def choose_replica(deployment: Deployment) -> Replica:
    """The ready replica with the fewest requests in flight; one that drains or is away only where all do so.

    Raises Unavailable.
    """
    deployment.require_ready()
    ready = [replica for replica in deployment.replicas if replica.ready]
    return min(ready, key=_last_choices_last)


def _last_choices_last(replica: Replica) -> tuple[bool, bool, int, int]:
    return replica.away, replica.server.draining, replica.in_flight, replica.last_turn


def require_kind(item: Deployment, kind: Kind, fallback: Kind | None) -> None:
    """Raises InvalidInput (`model`)."""
    found = item.target.kind
    if found not in (kind, fallback):
        kinds = kind.value if fallback is None else f"{kind.value} or {fallback.value}"
        raise InvalidInput.of(
            "model", f"{item.record.model!r} is of kind {found.value}; this task needs kind {kinds}"
        )


def _not_deployed(model: str) -> NotFound:
    return NotFound(f"model {model!r} is not deployed", "model")


def _take_turn(candidates: list[Deployment]) -> Deployment:
    """Smooth weighted round robin, as nginx does it: shares come out exactly, and evenly spread."""
    for item in candidates:
        item.share += item.record.traffic_weight
    chosen = max(candidates, key=lambda item: item.share)
    chosen.share -= sum(item.record.traffic_weight for item in candidates)
    return chosen
