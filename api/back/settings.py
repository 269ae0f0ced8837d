"""What the back layer must know to open; the façade builds it from its own settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from api.back.cluster.quality_gate import QualityGate
from kernels.processors import usable_cores
from runtime.config import MOST_THREADS, EngineSettings
from runtime.contract import Variant

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

# An undeployment waits no longer than this, even if a stop of the whole façade may take longer.
MAX_UNLOAD_WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class BackSettings:
    """Sizes are in bytes and times in seconds; a port of 0 means a free one."""

    home: Path
    database_url: str | None = None  # None: SQLite in `home`
    blob_url: str | None = None  # None: a folder in `home`
    triton_http_port: int | None = None  # None: no HTTP
    triton_grpc_port: int = 0
    triton_metrics_port: int = 0
    servers: int = 1  # Tritons on this machine
    facades: int = 1  # processes that have `servers` Tritons each
    triton_urls: tuple[str, ...] = ()  # of Tritons elsewhere, as `remote_triton.parse_address` reads them
    kubernetes_selector: str = ""  # labels of pods that are Tritons elsewhere, too; empty: none
    kubernetes_namespace: str = ""  # of those; empty: this pod's own
    triton_repository: str = ""  # the folder that those load from; {server}: one's address, or its pod's name
    triton_key: str = field(default="", repr=False)  # with which those were started
    engine: EngineSettings = field(default_factory=EngineSettings)
    variants: tuple[Variant, ...] = (Variant.FP32, Variant.INT8)  # what a conversion makes
    budget: QualityGate = field(default_factory=QualityGate)
    max_archive_bytes: int = 4 * 1024**3
    max_unpacked_bytes: int = 8 * 1024**3
    convert_timeout_seconds: float = 1800.0
    convert_memory_bytes: int = 8 * 1024**3
    training_seconds: float = 3600.0
    training_memory_bytes: int = 8 * 1024**3
    task_retention_days: int = 7  # of finished tasks' records
    max_uploads: int = 16  # unfinished ones at once
    upload_retention_hours: int = 24  # of uploads that are not finished, or that no model uses
    usage_retention_days: int = 400
    audit_retention_days: int = 365
    probe_interval_seconds: float = 2.0
    probe_timeout_seconds: float = 3.0
    drain_seconds: float = 6.0
    replace_drain_seconds: float = 300.0
    retry_seconds: float = 20.0
    autoscale_stabilisation_seconds: float = 300.0
    idle_unload_seconds: float = 0.0  # 0: never
    log_level: str = "info"
    log_format: str = "text"

    @property
    def all_servers(self) -> int:
        """Tritons on this machine, of all façades."""
        return self.facades * self.servers

    @property
    def threads(self) -> int:
        """Of an engine on this machine."""
        share = usable_cores() // max(1, self.all_servers)
        return self.engine.threads or max(1, min(MOST_THREADS, share))

    @property
    def blobs(self) -> Path:
        return self.home / "blobs"

    @property
    def uploads(self) -> Path:
        """Uploads in parts that are not finished; a start keeps them."""
        return self.home / "uploads"

    @property
    def trainings(self) -> Path:
        """Trainings under way; a start keeps them, and goes on with them."""
        return self.home / "trainings"

    @property
    def blob_lock(self) -> Path:
        return self.home / "blobs.lock"

    @property
    def upload_retention(self) -> timedelta:
        return timedelta(hours=self.upload_retention_hours)

    @property
    def triton(self) -> Path:
        """The working directory of all Tritons; they get paths relative to it: see `triton_process`."""
        return self.home / "triton"

    @property
    def backends(self) -> Path:
        return self.triton / "backends"

    @property
    def unload_wait_seconds(self) -> float:
        """How long an undeployment waits for running requests."""
        return min(self.drain_seconds, MAX_UNLOAD_WAIT_SECONDS)

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def staging(self) -> Path:
        """Uploads and conversions under way; emptied at start."""
        return self.home / "staging"

    @property
    def database(self) -> str | URL:
        """What SQLAlchemy opens."""
        from sqlalchemy.engine import URL  # `lmaas config` does without

        # Not as text: a ? or % in the folder's name would mean something else there.
        file = str(self.home.absolute() / "lmaas.db")
        return self.database_url or URL.create("sqlite+aiosqlite", database=file)
