from __future__ import annotations

from dataclasses import Field
from pathlib import Path

import pytest

from api.back.cluster.quality_gate import QualityGate
from api.back.settings import MAX_UNLOAD_WAIT_SECONDS
from api.config import ENGINE_SETTINGS, Settings
from api.environment import SettingsError, load_settings, settings_markdown, settings_rows
from runtime.config import EngineSettings, number_fields
from runtime.contract import Device, Variant


def test_defaults() -> None:
    settings = load_settings({"PATH": "/bin", "LMAAS_BLOB_URL": ""})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.home) == ("127.0.0.1", 8080, Path("var"))
    assert settings.back.drain_seconds == settings.drain_seconds
    assert settings.engine == settings.back.engine == EngineSettings()


def test_the_environment_is_read() -> None:
    settings = load_settings(
        {
            "LMAAS_PORT": "9000",
            "LMAAS_HOME": "/data",
            "LMAAS_MAX_BODY_BYTES": "2MiB",
            "LMAAS_PRECISION": "fp32",
            "LMAAS_DATABASE_URL": "postgresql://u:secret@h/db",
            "LMAAS_NUM_SLOTS": "8",
            "LMAAS_MAX_KV_TOKENS": "4096",
            "LMAAS_STEP_TIMEOUT_SECONDS": "30",
            "LMAAS_VARIANTS": "fp32, int4",
            "LMAAS_BUDGET_LABELS": "0.9",
        }
    )
    assert (settings.port, settings.home, settings.max_body_bytes) == (9000, Path("/data"), 2 * 1024**2)
    assert (settings.back.home, settings.back.engine.num_slots) == (Path("/data"), 8)
    assert (settings.engine.max_kv_tokens, settings.engine.step_timeout_seconds) == (4096, 30)
    assert settings.back.variants == (Variant.FP32, Variant.INT4)
    assert settings.back.budget == QualityGate(0.005, 0.97, 0.9)
    assert settings.back.database_url == "postgresql://u:secret@h/db"
    assert "secret" not in str(settings_rows(settings))


def test_names_and_the_port_of_triton_s_http_may_be_missing() -> None:
    empty = load_settings({"LMAAS_ALLOWED_HOSTS": "", "LMAAS_TRITON_HTTP_PORT": ""})
    assert (empty.host_names, empty.back.triton_http_port) == ([], None)
    given = load_settings({"LMAAS_ALLOWED_HOSTS": " lmaas.example, [::7],", "LMAAS_TRITON_HTTP_PORT": "0"})
    assert (given.host_names, given.back.triton_http_port) == (["lmaas.example", "[::7]"], 0)


@pytest.mark.parametrize(
    "names", ["http://lmaas.example", "lmaas.example:8080", "*", "a b", "lmaas.example/v1"]
)
def test_a_name_is_a_name_alone(names: str) -> None:
    with pytest.raises(SettingsError, match=r"^LMAAS_ALLOWED_HOSTS: .* is no host name: give names alone"):
        load_settings({"LMAAS_ALLOWED_HOSTS": names})


def test_a_gpu_is_chosen_for_all_models() -> None:
    chosen = {"LMAAS_DEVICE": "cuda", "LMAAS_VARIANTS": "fp32,fp16", "LMAAS_HOME": "/data"}
    back = load_settings(chosen).back
    assert (back.engine.device, back.engine.plans) == (Device.CUDA, "")
    planned = load_settings({**chosen, "LMAAS_TENSORRT_PLANS": "plans"}).back.engine.plans
    assert planned == str(Path("plans").absolute())


def test_pods_may_be_all_servers() -> None:
    chosen = {
        "LMAAS_SERVERS": "0",
        "LMAAS_KUBERNETES_SELECTOR": "a=b",
        "LMAAS_TRITON_REPOSITORY": "/s/{server}",
    }
    back = load_settings(chosen).back
    assert (back.servers, back.kubernetes_selector, back.kubernetes_namespace) == (0, "a=b", "")


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"LMAAS_PROT": "1"}, "LMAAS_PROT: no such setting; did you mean LMAAS_PORT?"),
        ({"LMAAS_ZZZ": "1"}, "LMAAS_ZZZ: no such setting; `lmaas config` lists the settings"),
        ({"LMAAS_PORT": "70000"}, "LMAAS_PORT: Input should be less than or equal to 65535 (value '70000')"),
        (
            {"LMAAS_PRECISION": "fp64"},
            "LMAAS_PRECISION: Input should be 'auto', 'fp32', 'fp16', 'int8' or 'int4'",
        ),
        (
            {"LMAAS_VARIANTS": "fp32,int3"},
            "LMAAS_VARIANTS: one or more of fp32, fp16, int8, int4 are needed, each once (value 'fp32,int3')",
        ),
        ({"LMAAS_DEVICE": "gpu"}, "LMAAS_DEVICE: Input should be 'cpu' or 'cuda' (value 'gpu')"),
        (
            {"LMAAS_DEVICE": "cuda"},
            "LMAAS_VARIANTS: LMAAS_DEVICE is cuda, which runs fp16 alone: set it to fp32,fp16 (value 'fp32,",
        ),
        (
            {"LMAAS_TENSORRT_PLANS": "plans"},
            "LMAAS_TENSORRT_PLANS: TensorRT needs a GPU: set LMAAS_DEVICE=cuda, or leave it empty (value",
        ),
        (
            {"LMAAS_FACADES": "2"},
            "LMAAS_DATABASE_URL: LMAAS_FACADES is 2, and several façades share a PostgreSQL database: set "
            "LMAAS_DATABASE_URL to postgresql://USER@HOST/NAME, or LMAAS_FACADES to 1",
        ),
        (
            {"LMAAS_FACADES": "3", "LMAAS_DATABASE_URL": "sqlite+aiosqlite:///lmaas.db"},
            "LMAAS_DATABASE_URL: LMAAS_FACADES is 3, and several façades share a PostgreSQL database: set ",
        ),
        ({"LMAAS_FACADES": "0"}, "LMAAS_FACADES: Input should be greater than or equal to 1 (value '0')"),
        (
            {"LMAAS_SERVERS": "0"},
            "LMAAS_TRITON_URLS: LMAAS_SERVERS is 0: give the address of a Triton elsewhere, or LMAAS_KUBER",
        ),
        (
            {"LMAAS_KUBERNETES_SELECTOR": "a=b"},
            "LMAAS_TRITON_REPOSITORY: LMAAS_KUBERNETES_SELECTOR needs the folder that the pods' Tritons load",
        ),
        (
            {"LMAAS_KUBERNETES_SELECTOR": "a=b", "LMAAS_TRITON_REPOSITORY": "/shared"},
            "LMAAS_TRITON_REPOSITORY: several Tritons need a folder each: have {server} in it",
        ),
        ({"LMAAS_BUDGET_TOP1": "97"}, "LMAAS_BUDGET_TOP1: Input should be less than or equal to 1"),
        ({"LMAAS_DRAIN_SECONDS": "inf"}, "LMAAS_DRAIN_SECONDS: "),
        ({"LMAAS_MAX_BODY_BYTES": "lots"}, "LMAAS_MAX_BODY_BYTES: could not parse value"),
    ],
)
def test_a_bad_value_is_one_clear_line(environ: dict[str, str], line: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings(environ)
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)


def test_a_secret_is_not_told_in_an_error() -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings({"LMAAS_DATABASE_URL": "postgresql://u:secret@h/db", "LMAAS_PORT": "x"})
    assert "secret" not in str(raised.value)


def test_every_setting_is_described_and_in_the_table() -> None:
    table = settings_markdown()
    for name, field in Settings.model_fields.items():
        assert field.description
        assert f"| `LMAAS_{name.upper()}` |" in table
    assert str(Path.cwd()) not in table
    assert len(settings_rows(Settings())) == len(Settings.model_fields)


@pytest.mark.parametrize("item", number_fields(), ids=lambda item: item.name)
def test_a_setting_of_the_engine_has_the_limits_of_the_engine(item: Field[int]) -> None:
    setting = ENGINE_SETTINGS.get(item.name, item.name)
    least, most = item.metadata["least"], item.metadata["most"]
    for value in (least, most):
        settings = load_settings({f"LMAAS_{setting.upper()}": str(value)})
        assert getattr(settings.engine, item.name) == value
    for value in (least - 1, most + 1):
        with pytest.raises(SettingsError, match=f"^LMAAS_{setting.upper()}: "):
            load_settings({f"LMAAS_{setting.upper()}": str(value)})
    assert getattr(Settings().engine, item.name) == item.default


def test_an_undeployment_does_not_wait_as_long_as_a_stop_may() -> None:
    assert load_settings({"LMAAS_DRAIN_SECONDS": "60"}).back.unload_wait_seconds == MAX_UNLOAD_WAIT_SECONDS
    assert load_settings({"LMAAS_DRAIN_SECONDS": "1"}).back.unload_wait_seconds == 1


def test_origins_are_as_browsers_write_them() -> None:
    given = " https://App.example:443/ ,http://[::1]:80,http://localhost:3000, https://a.example:8443"
    assert load_settings({"LMAAS_CORS_ORIGINS": given}).page_origins == [
        "https://app.example",
        "http://[::1]",
        "http://localhost:3000",
        "https://a.example:8443",
    ]
    for bad in ("*", "app.example", "https://app.example/path", "null", "https://*.example", "file://"):
        with pytest.raises(SettingsError, match=r"LMAAS_CORS_ORIGINS: .* is no origin"):
            load_settings({"LMAAS_CORS_ORIGINS": bad})
