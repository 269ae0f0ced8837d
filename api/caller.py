"""Who asks: made once for each request, and carried by its task and by the task's record."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from api.errors import Forbidden
from runtime.parameters import MAX_CALLER_LENGTH

KEY_PREFIX = "lmaas_"  # of every API key, and of its public id


class Scope(str, Enum):
    """What a caller may do. Every endpoint names the scope that it needs."""

    INFER = "infer"  # have models compute
    TASKS = "tasks"  # submit, list, follow and cancel tasks
    MODELS_READ = "models:read"  # list, show and download models and deployments
    MODELS_WRITE = "models:write"  # upload, convert, change, deploy and delete them
    METRICS = "metrics"  # read the metrics, as Prometheus does
    ADMIN = "admin"  # look at the model servers, and at what belongs to other callers


ALL_SCOPES = frozenset(Scope)
# Names for several scopes, as an operator gives them to a key.
SCOPE_GROUPS = {
    "inference": frozenset({Scope.INFER, Scope.TASKS, Scope.MODELS_READ}),
    "admin": ALL_SCOPES,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one caller, beside those of the whole server. None: no bound."""

    max_queued: int | None = None  # asynchronous tasks that wait
    max_in_flight: int | None = None  # synchronous tasks at once
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None  # of prompts and answers together
    models: frozenset[str] | None = None  # names of the models that it may use

    @property
    def has_rates(self) -> bool:
        return self.requests_per_minute is not None or self.tokens_per_minute is not None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Caller:
    """`key` is the public id of the caller's API key.

    Where no keys are needed it is a digest of what the caller sent as its key, which was not verified, or "".
    The key itself is kept nowhere.
    """

    address: str
    key: str = ""
    scopes: frozenset[Scope] = ALL_SCOPES
    limits: Limits = NO_LIMITS

    @property
    def verified(self) -> bool:
        """Whether the key was checked: a digest has no prefix."""
        return self.key.startswith(KEY_PREFIX)

    @property
    def fairness_key(self) -> str:
        """The name under which queues count the caller: its verified key, wherever it is used.

        Without one it is the address before what was sent as a key. That separates callers behind one
        address, and a caller cannot take the turns of a caller at another address.
        """
        name = self.key if self.verified else f"{self.address} {self.key}".rstrip()
        return name[:MAX_CALLER_LENGTH]

    @property
    def owns_all(self) -> bool:
        """Whether it sees and cancels the tasks of all callers."""
        return Scope.ADMIN in self.scopes

    def owns(self, other: Caller) -> bool:
        """Whether what `other` submitted is this caller's to see and to cancel."""
        return self.owns_all or (self.verified and self.key == other.key)

    def require(self, scope: Scope) -> None:
        """Raises Forbidden."""
        if scope not in self.scopes:
            raise Forbidden(f"this needs the scope {scope.value}, which the caller does not have")

    def require_model(self, model: str | None) -> None:
        """Raises Forbidden where the caller may use some models only, and this is none of them."""
        allowed = self.limits.models
        if allowed is None or model in allowed:
            return
        names = ", ".join(sorted(allowed))
        asked = "names no model" if model is None else f"names the model {model[:64]!r}"
        raise Forbidden(f"this key may use only the models {names}, and the request {asked}")
