"""Whether our operators are used."""

from __future__ import annotations

import pytest

from kernels.library import SWITCH, missing


def test_a_setting_switches_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    assert missing.__wrapped__() == "LMAAS_KERNELS is off"


@pytest.mark.parametrize("value", ["", "auto"])
def test_otherwise_the_processor_decides(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, value)
    assert missing.__wrapped__() in (None, "the processor lacks AVX-512 with VNNI")
