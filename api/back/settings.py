"""What the back layer must know to open; the façade builds it from its own settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from api.back.cluster.budget import QualityBudget
from runtime.contract import Device, Variant


@dataclass(frozen=True, slots=True)
class BackSettings:
    """Sizes are in bytes and times in seconds; a port of 0 means a free one."""

    home: Path
    database_url: str | None = None  # None: SQLite in `home`
    blob_url: str | None = None  # None: a folder in `home`
    triton_http_port: int = 0
    triton_grpc_port: int = 0
    triton_metrics_port: int = 0
    device: Device = Device.CPU
    tensorrt: bool = False
    variants: tuple[Variant, ...] = (Variant.FP32, Variant.INT8)  # what a conversion makes
    budget: QualityBudget = field(default_factory=QualityBudget)
    max_archive_bytes: int = 4 * 1024**3
    max_unpacked_bytes: int = 8 * 1024**3
    convert_timeout_seconds: float = 1800.0
    convert_memory_bytes: int = 8 * 1024**3
    num_slots: int = 32
    max_kv_tokens: int = 0  # 0: slots times context
    max_queued: int = 256
    max_queued_tokens: int = 131_072
    prefill_chunk: int = 128
    engine_threads: int = 2
    step_timeout_seconds: int = 60
    task_retention_days: int = 7  # of finished tasks' records
    probe_interval_seconds: float = 2.0
    probe_timeout_seconds: float = 3.0
    drain_seconds: float = 5.0
    log_level: str = "info"

    @property
    def blobs(self) -> Path:
        return self.home / "blobs"

    @property
    def repository(self) -> Path:
        """The repository that the live Triton reads."""
        return self.home / "triton" / "repository"

    @property
    def backends(self) -> Path:
        return self.home / "triton" / "backends"

    @property
    def tensorrt_cache(self) -> str:
        """The folder of what TensorRT compiled, for the next start; empty: it is not used."""
        return str((self.home / "triton" / "tensorrt").absolute()) if self.tensorrt else ""

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def staging(self) -> Path:
        """Uploads and conversions under way; emptied at start."""
        return self.home / "staging"

    @property
    def database(self) -> str:
        """The URL that SQLAlchemy opens."""
        return self.database_url or f"sqlite+aiosqlite:///{self.home.absolute() / 'lmaas.db'}"
