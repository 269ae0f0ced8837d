"""Who a caller is, by its API key; and whether callers need one."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from api.back.store.keys import KEY, KeyStore
from api.back.store.records import KeyRecord, now
from api.caller import Caller, Limits
from api.config import Settings
from api.errors import StoreUnavailable, Unauthorized, Unavailable

KNOWN_SECONDS = 2.0  # for so long a record is not read again: a revocation holds after that
# For so long a key that was valid stays so while the database cannot be read: what needs no record goes on.
OUTAGE_SECONDS = 300.0
MAX_KNOWN = 4096  # ids, those that no key has among them
DIGEST_LENGTH = 16
RETRY_SECONDS = 2.0
NEEDED = "an API key is needed: send one as `Authorization: Bearer KEY`; `lmaas keys create` makes it"
UNKNOWN = "the API key is none of this server"


@dataclass(slots=True)
class _Known:
    """What the database said of an id: `read` is the last time, `asked` the last try."""

    record: KeyRecord | None
    read: float
    asked: float


class KeyRing:
    """Checks keys. Belongs to one event loop.

    `exist`: keys were created before the start, so that they are needed before the database is open.
    """

    def __init__(
        self, settings: Settings, *, exist: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._may_be_open = settings.access != "keys" and (settings.access == "open" or settings.on_loopback)
        self._always_open = settings.access == "open"
        self._limits = Limits(max_queued=settings.max_queued_tasks_per_caller)
        self._exist = exist
        self._clock = clock
        self._store: KeyStore | None = None
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._looked = float("-inf")  # when for a first key

    def attach(self, store: KeyStore | None) -> None:
        """The keys of the database, now that it is open; None: it is closed."""
        self._store = store

    async def required(self) -> bool:
        """Whether callers need a key. Once a key exists they do: also when all of them were revoked."""
        if self._always_open:
            return False
        if not self._exist and self._may_be_open and self._store is not None:
            moment = self._clock()
            if moment - self._looked >= KNOWN_SECONDS:
                self._looked = moment
                try:
                    self._exist = await self._store.any()
                except StoreUnavailable:  # then none can have been created
                    return False
        return self._exist or not self._may_be_open

    async def identify(self, address: str, sent: str) -> Caller:
        """The caller that sent this as its key. Raises Unauthorized; Unavailable: it cannot be checked."""
        if not await self.required():
            digest = hashlib.sha256(sent.encode()).hexdigest()[:DIGEST_LENGTH] if sent else ""
            return Caller(address, digest, limits=self._limits)
        if not sent:
            raise Unauthorized(NEEDED)
        parts = KEY.fullmatch(sent)
        if parts is None:
            raise Unauthorized(UNKNOWN)
        record = await self._find(parts["id"])
        if record is None or not record.has_secret(parts["secret"]):
            raise Unauthorized(UNKNOWN)
        if refusal := record.refusal(now()):
            raise Unauthorized(f"the API key {record.id} {refusal}")
        return Caller(address, record.id, record.scopes, self._limits_of(record))

    def _limits_of(self, record: KeyRecord) -> Limits:
        own, general = record.limits.max_queued, self._limits.max_queued
        return record.limits if own is not None else dataclasses.replace(record.limits, max_queued=general)

    async def _find(self, key_id: str) -> KeyRecord | None:
        """Where requests come together and the record is old, one of them reads it again."""
        moment = self._clock()
        known = self._known.get(key_id)
        if known is not None and moment - known.asked < KNOWN_SECONDS:
            return known.record
        if self._store is None:
            raise Unavailable("the server is starting, and cannot check keys yet", RETRY_SECONDS)
        if known is not None:
            known.asked = moment
        try:
            record = await self._store.get(key_id)
        except StoreUnavailable:
            if known is not None and known.record is not None and moment - known.read < OUTAGE_SECONDS:
                return known.record
            self._known.pop(key_id, None)
            raise
        self._known[key_id] = _Known(record, moment, moment)
        self._known.move_to_end(key_id)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return record
