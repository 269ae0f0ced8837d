"""The façade's settings, each declared once; `environment` reads and shows them as `LMAAS_*` variables."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from api.back.cluster.addresses import parse_address
from api.back.cluster.quality_gate import QualityGate
from api.back.settings import BackSettings
from runtime.config import EngineSettings, number_fields
from runtime.contract import Device, Variant
from runtime.manifest import MAX_CHAT_TEMPLATE

PREFIX = "LMAAS_"
MIB = 1024**2
GIB = 1024**3
# A name, or an address; of IPv6 with or without its brackets.
HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})|\[?[0-9A-Fa-f:.]{2,45}\]?")
ORIGIN = re.compile(r"https?://([a-z0-9_]([a-z0-9_.-]{0,252})|\[[0-9a-f:.]{2,45}\])(:[0-9]{1,5})?")
BUNDLED_MODELS = Path(__file__).resolve().parent.parent / "models"

# Plain text, for a model that was trained on no conversations.
PLAIN_TEMPLATE = (
    r"{% for message in messages %}{{ message.role.capitalize() + ': ' + message.content + '\n' }}"
    r"{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)

Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Connections = Annotated[int, Field(ge=0, le=1_000_000)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Servers = Annotated[int, Field(ge=0, le=64)]
Facades = Annotated[int, Field(ge=1, le=64)]
Trainings = Annotated[int, Field(ge=0, le=64)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Pause = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


# Names of the engine's fields that are too general for a setting of the whole façade.
ENGINE_SETTINGS = {"threads": "engine_threads"}


def _engine_field(name: str) -> Any:
    """A setting whose default, limits and description `EngineSettings` declares."""
    item = next(item for item in number_fields() if item.name == name)
    limits = item.metadata
    return Field(default=item.default, ge=limits["least"], le=limits["most"], description=limits["help"])


class Settings(BaseSettings):
    """Every setting of the façade process. Only what `load_settings` or a caller passes in counts."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    host: str = Field(default="127.0.0.1", min_length=1, description="Address that the API listens on.")
    port: Port = Field(default=8080, description="Port of the API; 0 takes a free one.")
    allowed_hosts: str = Field(
        default="",
        description="Host names beside localhost that requests may use, separated by commas.",
    )
    cors_origins: str = Field(
        default="",
        description="Web pages of other origins that may call the API, by commas, as https://app.example:8443.",
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM file with the certificate and its chain; the API then speaks HTTPS."
    )
    tls_key: Path | None = Field(
        default=None, validate_default=True, description="PEM file with the certificate's private key."
    )
    access: Literal["auto", "keys", "open"] = Field(
        default="auto",
        description="Who may call. keys: callers with an API key (`lmaas keys create`). open: everybody."
        " auto: everybody on a loopback address until the first key exists, elsewhere callers with a key.",
    )
    home: Path = Field(
        default=Path("var"), description="Folder of all state: database, blobs, model repositories, logs."
    )
    models: Path = Field(
        default=BUNDLED_MODELS,
        description="Folder of bundled checkpoints, imported and deployed once at the first start.",
    )
    precision: Literal["auto", "fp32", "fp16", "int8", "int4"] = Field(
        default="auto", description="Precision of a deployment where none is asked for."
    )
    servers: Servers = Field(
        default=1,
        description="Model servers (Triton processes) on this machine, at most one for each processor, "
        "and with cuda for each GPU. The replicas of a deployment run on different servers.",
    )
    facades: Facades = Field(
        default=1,
        description="Façade processes on this machine that share one port, one PostgreSQL database and one "
        "store of files (`blobs` in the home folder, or a bucket). Each has LMAAS_SERVERS model servers.",
    )
    kubernetes_selector: str = Field(
        default="",
        description="Labels of pods that are Tritons, as app.kubernetes.io/component=triton; their Service "
        "has them, too. Pods may come and go. It needs `pip install 'lmaas[kubernetes]'`.",
    )
    kubernetes_namespace: str = Field(
        default="", description="The namespace of those pods. Empty: that of this process."
    )
    triton_urls: str = Field(
        default="",
        validate_default=True,
        description="Tritons elsewhere, by commas: grpc://HOST:PORT, with metrics on the next port or on "
        "?metrics=PORT. With LMAAS_SERVERS=0 there are no others. They need LMAAS_TRITON_REPOSITORY.",
    )
    triton_repository: str = Field(
        default="",
        validate_default=True,
        description="Folder that is the model repository of the Tritons elsewhere, as this process sees it; "
        "{server} stands for HOST-PORT of one, or its pod's name, and is needed where there are several.",
    )
    triton_key: SecretStr = Field(
        default=SecretStr(""), description="The lmaas-key with which the Tritons elsewhere were started."
    )
    device: Literal["cpu", "cuda"] = Field(
        default=EngineSettings().device.value,
        description="What models run on; cuda: NVIDIA GPUs, one for each server, in fp16.",
    )
    tensorrt_plans: str = Field(
        default="",
        validate_default=True,
        description="Folder in which model servers on a GPU build and keep TensorRT's plans, which then "
        "compute. Where there is none or its golden answers differ, ONNX Runtime computes, and the "
        "deployment's note says why. Empty: ONNX Runtime. No plan was run on a GPU yet.",
    )
    kernels: Literal["auto", "off", "avx512vnni", "avxvnni", "avx2", "reference"] = Field(
        default="auto",
        description="Operators of our own for int8 and int4: auto, with the best instructions that the "
        "processor has; off: ONNX Runtime's; or the instructions to use. The answer is the same with all of "
        "them.",
    )
    variants: str = Field(
        default="fp32,int8",
        validate_default=True,
        description="What a conversion makes, separated by commas: fp32, fp16, int8, int4. cuda needs fp16.",
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
        default=None,
        validate_default=True,
        description="postgresql://USER@HOST/NAME, a database that several façades may share (`pip install "
        "'lmaas[postgres]'`); empty: SQLite in the home folder.",
    )
    blob_url: str | None = Field(
        default=None,
        description="Where files are kept: `s3://bucket/prefix`, or `file:///folder` for several façades. "
        "Empty: the home folder. Endpoint, region and credentials of S3 come from AWS's own variables.",
    )
    triton_http_port: Port | None = Field(
        default=None,
        description="Triton's HTTP port, for native clients; 0 takes a free one. Empty: no HTTP, since any "
        "web page can post to it. The ports of each further server are 10 higher.",
    )
    triton_grpc_port: Port = Field(default=0, description="Triton's gRPC port; 0 takes a free one.")
    triton_metrics_port: Port = Field(default=0, description="Triton's metrics port; 0 takes a free one.")
    max_connections: Connections = Field(
        default=0,
        description="Connections at once; more take the place of idle ones, or are refused (503). 0: what the"
        " limit of open files allows, at most 8192.",
    )
    keep_alive_seconds: Seconds = Field(
        default=75, description="How long an idle connection stays open; a proxy's own time must be shorter."
    )
    head_timeout_seconds: Seconds = Field(
        default=10,
        description="How long the head of a request, and before it the TLS handshake, may take to arrive.",
    )
    stall_timeout_seconds: Seconds = Field(
        default=30,
        description="A connection is closed where a body comes, or an answer is read, at less than 1 KiB/s"
        " for this time.",
    )
    max_body_bytes: ByteSize = Field(default=ByteSize(2 * MIB), ge=1024, description="Largest JSON body.")
    max_archive_bytes: ByteSize = Field(
        default=ByteSize(4 * GIB), ge=1024, description="Largest uploaded archive."
    )
    max_unpacked_bytes: ByteSize = Field(
        default=ByteSize(8 * GIB), ge=1024, description="Largest unpacked archive."
    )
    max_file_bytes: ByteSize = Field(
        default=ByteSize(200 * MIB),
        ge=1024,
        description="Largest file: what is uploaded for a batch or a training, and what a batch writes.",
    )
    max_files: Count = Field(default=1000, description="Files of all callers; more are answered 409.")
    max_files_per_caller: Count = Field(
        default=100, description="Files of one caller; more are answered 409."
    )
    file_retention_days: Count = Field(default=30, description="How long files are kept, in days.")
    max_batches: Count = Field(
        default=100, description="Batches of all callers under way; more are answered 429."
    )
    max_batches_per_caller: Count = Field(
        default=20, description="Batches of one caller under way; more are answered 429."
    )
    batch_slots: Count = Field(
        default=4,
        description="Sequences of batches at once, at most; fewer where tasks need the slots.",
    )
    convert_timeout_seconds: Seconds = Field(default=1800, description="Longest conversion.")
    convert_memory_bytes: ByteSize = Field(
        default=ByteSize(8 * GIB), ge=256 * MIB, description="Memory that a conversion may use."
    )
    training_jobs: Trainings = Field(
        default=1,
        description="Trainings (tasks of type `train`) at once; 0: none. They need the extra `train`.",
    )
    training_seconds: Seconds = Field(default=3600, description="Longest training.")
    training_memory_bytes: ByteSize = Field(
        default=ByteSize(8 * GIB), ge=GIB, description="Memory that a training may use."
    )
    training_rows: int = Field(
        default=1_000_000, ge=1, le=100_000_000, description="Most rows of a training, of all its files."
    )
    max_in_flight: Count = Field(default=256, description="Synchronous tasks at once; more are answered 429.")
    max_queued_tasks: Count = Field(
        default=1000, description="Asynchronous tasks waiting; more are answered 429."
    )
    max_queued_tasks_per_caller: Count = Field(
        default=250, description="Asynchronous tasks of one caller waiting; more are answered 429."
    )
    task_workers: Count = Field(default=4, description="Asynchronous tasks that run at once.")
    task_retention_days: Count = Field(
        default=7, description="How long records of finished tasks are kept, in days."
    )
    callback_secret: SecretStr | None = Field(
        default=None,
        description="Signs callbacks (`callback_url` of `POST /v1/tasks`) as Standard Webhooks does; empty: "
        "no callbacks.",
    )
    callback_private: bool = Field(
        default=False, description="Let callbacks go to private, loopback and link-local addresses, too."
    )
    max_uploads: Count = Field(
        default=16, description="Unfinished uploads in parts at once; one more is answered 429."
    )
    upload_retention_hours: Count = Field(
        default=24,
        description="How long an upload is kept that is not finished, or that no model uses, in hours.",
    )
    usage_retention_days: Count = Field(
        default=400, description="How long it is kept what each API key used on a day, in days."
    )
    audit_retention_days: Count = Field(
        default=365, description="How long the audit log is kept, in days; at most 100,000 entries."
    )
    chat_template: str = Field(
        default=PLAIN_TEMPLATE,
        max_length=MAX_CHAT_TEMPLATE,
        description="Jinja template of /v1/chat/completions for models that bring none; empty: they take no "
        "conversations.",
    )
    clamp_max_tokens: bool = Field(
        default=False,
        description="Cut a `max_tokens` that is beyond the model's context to what it has left, in place of "
        "an error: for clients that always ask for the same number.",
    )
    fan_out: Count = Field(
        default=16, description="Requests to model servers that run at once for one list of inputs."
    )
    num_slots: int = _engine_field("num_slots")
    max_kv_tokens: int = _engine_field("max_kv_tokens")
    max_queued: int = _engine_field("max_queued")
    max_queued_tokens: int = _engine_field("max_queued_tokens")
    prefill_chunk: int = _engine_field("prefill_chunk")
    engine_threads: int = _engine_field("threads")
    step_timeout_seconds: int = _engine_field("step_timeout_seconds")
    probe_interval_seconds: Seconds = Field(
        default=2, description="Time between probe inferences of a deployment."
    )
    probe_timeout_seconds: Seconds = Field(default=3, description="How long a probe inference may take.")
    drain_seconds: Seconds = Field(default=6, description="How long running requests may go on after a stop.")
    replace_drain_seconds: Seconds = Field(
        default=300,
        description="How long a version that was replaced by a rolling replacement may go on with its "
        "requests.",
    )
    retry_seconds: Pause = Field(
        default=20,
        description="How long a request whose model server died waits for another one, or for its return, to"
        " be sent again; 0: not at all. Where a part of the answer was sent, it never is.",
    )
    autoscale_stabilisation_seconds: Seconds = Field(
        default=300, description="How long fewer replicas must have been enough before one is taken away."
    )
    idle_unload_seconds: Pause = Field(
        default=0,
        description="A deployment that no request came for in this time gives its memory back; the next "
        "request loads it again, and waits for that. 0: never.",
    )
    stream_ping_seconds: Seconds = Field(
        default=15, description="Silence after which a stream sends a keep-alive."
    )
    stream_buffer_bytes: ByteSize = Field(
        default=ByteSize(4 * MIB),
        ge=1024,
        description="Bytes of a stream that may wait for a slow reader; with more, the task is cancelled.",
    )
    otlp_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="Receiver of OpenTelemetry traces by OTLP over HTTP, as http://127.0.0.1:4318."
        " Empty: that of OTEL_EXPORTER_OTLP_ENDPOINT, or no traces.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line."
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="Form of a log line. json: one object a line, and those of the model servers among them.",
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _plain_names(cls, text: str) -> str:
        names = [name.strip() for name in text.split(",") if name.strip()]
        for name in names:
            if not HOST_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no host name: give names alone, without http:// and port")
        return ",".join(names)

    @field_validator("cors_origins")
    @classmethod
    def _plain_origins(cls, text: str) -> str:
        origins = [origin.strip().rstrip("/").lower() for origin in text.split(",") if origin.strip()]
        for origin in origins:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin: give scheme, name and port alone, as https://app.example:8443"
                )
        return ",".join(re.sub(r"^(http://.*):80$|^(https://.*):443$", r"\1\2", origin) for origin in origins)

    @field_validator("tls_key")
    @classmethod
    def _both_or_none(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if (key is None) != (info.data.get("tls_certificate") is None):
            raise ValueError(f"{PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY are needed together")
        return key

    @field_validator("triton_urls")
    @classmethod
    def _addresses(cls, text: str, info: ValidationInfo) -> str:
        urls = [url.strip() for url in text.split(",") if url.strip()]
        if len({parse_address(url).grpc for url in urls}) < len(urls):
            raise ValueError("each Triton is needed once")
        if not urls and info.data.get("servers") == 0 and not info.data.get("kubernetes_selector"):
            others = f"the address of a Triton elsewhere, or {PREFIX}KUBERNETES_SELECTOR"
            raise ValueError(f"{PREFIX}SERVERS is 0: give {others}")
        return ",".join(urls)

    @field_validator("triton_repository")
    @classmethod
    def _shared_folder(cls, text: str, info: ValidationInfo) -> str:
        urls = info.data.get("triton_urls", "")
        if urls and not text:
            raise ValueError(f"{PREFIX}TRITON_URLS needs the folder that those Tritons load from")
        pods = info.data.get("kubernetes_selector", "")
        if pods and not text:
            raise ValueError(f"{PREFIX}KUBERNETES_SELECTOR needs the folder that the pods' Tritons load from")
        if ("," in urls or pods) and "{server}" not in text:
            raise ValueError("several Tritons need a folder each: have {server} in it")
        return text

    @field_validator("database_url")
    @classmethod
    def _shared_database(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        facades = info.data.get("facades", 1)
        if facades > 1 and not (url and url.get_secret_value().startswith("postgresql")):
            raise ValueError(
                f"{PREFIX}FACADES is {facades}, and several façades share a PostgreSQL database: set "
                f"{PREFIX}DATABASE_URL to postgresql://USER@HOST/NAME, or {PREFIX}FACADES to 1"
            )
        return url

    @field_validator("tensorrt_plans")
    @classmethod
    def _on_a_gpu(cls, folder: str, info: ValidationInfo) -> str:
        if folder and info.data.get("device") != Device.CUDA.value:
            raise ValueError(f"TensorRT needs a GPU: set {PREFIX}DEVICE=cuda, or leave it empty")
        return str(Path(folder).absolute()) if folder else ""

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
    def on_loopback(self) -> bool:
        """Whether only this machine reaches the API."""
        name = self.host.strip("[]").lower()
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost"

    @property
    def page_origins(self) -> list[str]:
        """Those of `cors_origins`, as browsers write them."""
        return self.cors_origins.split(",") if self.cors_origins else []

    @property
    def host_names(self) -> list[str]:
        """Those of `allowed_hosts`."""
        return self.allowed_hosts.split(",") if self.allowed_hosts else []

    @property
    def engine(self) -> EngineSettings:
        """What every model's engine is configured with."""
        numbers = {
            item.name: getattr(self, ENGINE_SETTINGS.get(item.name, item.name)) for item in number_fields()
        }
        return EngineSettings(device=Device(self.device), plans=self.tensorrt_plans, **numbers)

    @property
    def back(self) -> BackSettings:
        """What the back layer takes of these settings."""
        same = {name: getattr(self, name) for name in BACK_SETTINGS}
        return BackSettings(
            database_url=self.database_url.get_secret_value() if self.database_url else None,
            triton_urls=tuple(self.triton_urls.split(",")) if self.triton_urls else (),
            triton_key=self.triton_key.get_secret_value(),
            engine=self.engine,
            variants=tuple(Variant(name) for name in self.variants.split(",")),
            budget=QualityGate(self.budget_perplexity, self.budget_top1, self.budget_labels),
            **same,
        )


# What the back layer takes as it is.
BACK_SETTINGS = {item.name for item in fields(BackSettings)} - {
    "database_url",
    "triton_urls",
    "triton_key",
    "engine",
    "variants",
    "budget",
}
