"""The façade's settings: `LMAAS_*` variables, checked at once; one table for `lmaas config` and README."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from api.back.cluster.budget import QualityBudget
from api.back.settings import BackSettings
from runtime.contract import Device, Variant

PREFIX = "LMAAS_"
MIB = 1024**2
GIB = 1024**3
BUNDLED_MODELS = Path(__file__).resolve().parent.parent / "models"

Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Tokens = Annotated[int, Field(ge=0, le=1_000_000_000)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class SettingsError(Exception):
    """A setting that stops the start; `str(error)` is one line for the operator."""


class Settings(BaseSettings):
    """Every setting of the façade process. Only what `load_settings` or a caller passes in counts."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    host: str = Field(default="127.0.0.1", min_length=1, description="Address that the API listens on.")
    port: Port = Field(default=8080, description="Port of the API; 0 takes a free one.")
    home: Path = Field(
        default=Path("var"), description="Folder of all state: database, blobs, live repository, logs."
    )
    models: Path = Field(
        default=BUNDLED_MODELS,
        description="Folder of bundled checkpoints, imported and deployed once at the first start.",
    )
    precision: Literal["auto", "fp32", "fp16", "int8", "int4"] = Field(
        default="auto", description="Precision of a deployment where none is asked for."
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu", description="What models run on; cuda: the first NVIDIA GPU, in fp16."
    )
    tensorrt: bool = Field(
        default=False, description="Let TensorRT compile what it can of a model; only with cuda."
    )
    variants: str = Field(
        default="fp32,int8",
        validate_default=True,
        description="What a conversion makes, by commas: fp32, fp16, int8, int4. cuda needs fp16.",
    )
    budget_perplexity: Share = Field(
        default=0.005, description="How much a variant's perplexity may lie above fp32's, as a share."
    )
    budget_top1: Share = Field(
        default=0.97, description="Least share of next tokens that a variant chooses as fp32 does."
    )
    budget_labels: Share = Field(
        default=0.99, description="Least share of labels that a variant gives as fp32 does."
    )
    database_url: SecretStr | None = Field(
        default=None, description="SQLAlchemy URL; empty: SQLite in the home folder."
    )
    blob_url: str | None = Field(default=None, description="Where files are kept; empty: the home folder.")
    triton_http_port: Port = Field(default=0, description="Triton's HTTP port; 0 takes a free one.")
    triton_grpc_port: Port = Field(default=0, description="Triton's gRPC port; 0 takes a free one.")
    triton_metrics_port: Port = Field(default=0, description="Triton's metrics port; 0 takes a free one.")
    max_body_bytes: ByteSize = Field(default=ByteSize(MIB), ge=1024, description="Largest JSON body.")
    max_archive_bytes: ByteSize = Field(
        default=ByteSize(4 * GIB), ge=1024, description="Largest uploaded archive."
    )
    max_unpacked_bytes: ByteSize = Field(
        default=ByteSize(8 * GIB), ge=1024, description="Largest unpacked archive."
    )
    convert_timeout_seconds: Seconds = Field(default=1800, description="Longest conversion.")
    convert_memory_bytes: ByteSize = Field(
        default=ByteSize(8 * GIB), ge=256 * MIB, description="Memory that a conversion may use."
    )
    max_in_flight: Count = Field(default=256, description="Synchronous tasks at once; more are answered 429.")
    max_queued_tasks: Count = Field(
        default=1000, description="Asynchronous tasks waiting; more are answered 429."
    )
    task_workers: Count = Field(default=4, description="Asynchronous tasks that run at once.")
    task_retention_days: Count = Field(
        default=7, description="How long records of finished tasks are kept, in days."
    )
    fan_out: Count = Field(
        default=16, description="Requests to model servers that one list is served by at once."
    )
    num_slots: Count = Field(default=32, description="Sequences that one language model decodes at once.")
    max_kv_tokens: Tokens = Field(
        default=0,
        description="Tokens that one language model's KV cache holds, prompts and answers at their longest; "
        "what needs more waits. 0: as many as the slots have.",
    )
    max_queued: Count = Field(default=256, description="Requests that wait inside one language model.")
    max_queued_tokens: Tokens = Field(
        default=131_072, ge=1, description="Prompt tokens that wait inside one language model."
    )
    prefill_chunk: Count = Field(
        default=128,
        description="Most prompt tokens of one engine step; fewer where sequences decode.",
    )
    engine_threads: Count = Field(default=2, description="Threads of one model's engine.")
    step_timeout_seconds: Count = Field(
        default=60, description="A model's step that takes longer hangs: the model is started anew."
    )
    probe_interval_seconds: Seconds = Field(
        default=2, description="Time between probe inferences of a deployment."
    )
    probe_timeout_seconds: Seconds = Field(default=3, description="How long a probe inference may take.")
    drain_seconds: Seconds = Field(default=6, description="How long running requests may go on after a stop.")
    stream_ping_seconds: Seconds = Field(
        default=15, description="Silence after which a stream sends a keep-alive."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line."
    )
    log_format: Literal["text", "json"] = Field(default="text", description="Form of a log line.")

    @field_validator("tensorrt")
    @classmethod
    def _with_cuda(cls, wanted: bool, info: ValidationInfo) -> bool:
        if wanted and info.data.get("device") != Device.CUDA.value:
            raise ValueError(f"TensorRT runs on a GPU only: set {PREFIX}DEVICE to cuda")
        return wanted

    @field_validator("variants")
    @classmethod
    def _known_variants(cls, text: str, info: ValidationInfo) -> str:
        names = [name.strip() for name in text.split(",")]
        known = [variant.value for variant in Variant]
        if len(set(names)) != len(names) or not set(names) <= set(known):
            raise ValueError(f"one or more of {', '.join(known)} are needed, each once")
        if info.data.get("device") == Device.CUDA.value and Variant.FP16.value not in names:
            raise ValueError(f"{PREFIX}DEVICE is cuda, which runs fp16 alone: set it to fp32,fp16")
        return ",".join(names)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **named: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments alone: `load_settings` passes the environment, so tests need not change it."""
        return (init_settings,)

    @property
    def back(self) -> BackSettings:
        """What the back layer takes of these settings."""
        return BackSettings(
            home=self.home,
            database_url=self.database_url.get_secret_value() if self.database_url else None,
            blob_url=self.blob_url,
            triton_http_port=self.triton_http_port,
            triton_grpc_port=self.triton_grpc_port,
            triton_metrics_port=self.triton_metrics_port,
            device=Device(self.device),
            tensorrt=self.tensorrt,
            variants=tuple(Variant(name) for name in self.variants.split(",")),
            budget=QualityBudget(self.budget_perplexity, self.budget_top1, self.budget_labels),
            max_archive_bytes=self.max_archive_bytes,
            max_unpacked_bytes=self.max_unpacked_bytes,
            convert_timeout_seconds=self.convert_timeout_seconds,
            convert_memory_bytes=self.convert_memory_bytes,
            num_slots=self.num_slots,
            max_kv_tokens=self.max_kv_tokens,
            max_queued=self.max_queued,
            max_queued_tokens=self.max_queued_tokens,
            prefill_chunk=self.prefill_chunk,
            engine_threads=self.engine_threads,
            step_timeout_seconds=self.step_timeout_seconds,
            task_retention_days=self.task_retention_days,
            probe_interval_seconds=self.probe_interval_seconds,
            probe_timeout_seconds=self.probe_timeout_seconds,
            drain_seconds=min(self.drain_seconds, 5.0),
            log_level=self.log_level,
        )


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read `LMAAS_*` from `environ`; an empty value counts as not set. Raises SettingsError."""
    values: dict[str, Any] = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX):
            continue
        field = name.removeprefix(PREFIX).lower()
        if field not in Settings.model_fields:
            raise SettingsError(f"{name}: no such setting{_suggest(field)}")
        if value != "":
            values[field] = value
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError("; ".join(_line(item) for item in error.errors())) from None


def _suggest(field: str) -> str:
    close = difflib.get_close_matches(field, Settings.model_fields, n=1)
    return f"; did you mean {PREFIX}{close[0].upper()}?" if close else "; `lmaas config` lists the settings"


def _line(item: Any) -> str:
    name = PREFIX + str(item["loc"][0]).upper()
    shown = "" if name == f"{PREFIX}DATABASE_URL" else f" (value {item['input']!r})"
    return f"{name}: {item['msg'].removeprefix('Value error, ')}{shown}"


def settings_rows(settings: Settings) -> list[tuple[str, str, str, str]]:
    """Variable, value now, default and description of each setting, for `lmaas config`."""
    return [
        (PREFIX + name.upper(), _shown(getattr(settings, name)), _default(name), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def settings_markdown() -> str:
    """The settings as a Markdown table, for the README."""
    lines = ["| variable | default | what |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = f"`{_default(name)}`" if _default(name) else ""
        lines.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def _default(name: str) -> str:
    value = Settings.model_fields[name].default
    return "models" if value == BUNDLED_MODELS else _shown(value)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, ByteSize):
        return value.human_readable().replace(".0", "")
    return f"{value:g}" if isinstance(value, float) else str(value)
