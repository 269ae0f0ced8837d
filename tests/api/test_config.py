from __future__ import annotations

from pathlib import Path

import pytest

from api.back.cluster.budget import QualityBudget
from api.config import Settings, SettingsError, load_settings, settings_markdown, settings_rows
from runtime.contract import Device, Variant


def test_defaults() -> None:
    settings = load_settings({"PATH": "/bin", "LMAAS_BLOB_URL": ""})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.home) == ("127.0.0.1", 8080, Path("var"))
    assert settings.back.drain_seconds <= settings.drain_seconds


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
    assert (settings.back.home, settings.back.num_slots) == (Path("/data"), 8)
    assert (settings.back.max_kv_tokens, settings.back.step_timeout_seconds) == (4096, 30)
    assert settings.back.variants == (Variant.FP32, Variant.INT4)
    assert settings.back.budget == QualityBudget(0.005, 0.97, 0.9)
    assert settings.back.database_url == "postgresql://u:secret@h/db"
    assert "secret" not in str(settings_rows(settings))


def test_a_gpu_is_chosen_for_all_models() -> None:
    chosen = {"LMAAS_DEVICE": "cuda", "LMAAS_VARIANTS": "fp32,fp16", "LMAAS_HOME": "/data"}
    back = load_settings(chosen).back
    assert (back.device, back.tensorrt_cache) == (Device.CUDA, "")
    assert load_settings(chosen | {"LMAAS_TENSORRT": "1"}).back.tensorrt_cache == "/data/triton/tensorrt"


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
            {"LMAAS_TENSORRT": "true"},
            "LMAAS_TENSORRT: TensorRT runs on a GPU only: set LMAAS_DEVICE to cuda (value 'true')",
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
