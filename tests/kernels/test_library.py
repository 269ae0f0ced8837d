"""Whether our operators are used, and at which level."""

from __future__ import annotations

import pytest

from kernels.library import LEVELS, SWITCH, LevelError, described_level, level, missing, supported_levels


def test_a_setting_switches_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    assert missing.__wrapped__() == "LMAAS_KERNELS is off"


@pytest.mark.parametrize("value", ["", "auto", "reference"])
def test_otherwise_every_processor_uses_them(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, value)
    assert missing.__wrapped__() is None


def test_an_unknown_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "avx")
    with pytest.raises(
        LevelError, match="LMAAS_KERNELS is avx: it can be auto, off, avx512vnni, avxvnni, avx2"
    ):
        missing.__wrapped__()


def test_a_level_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = [name for name in LEVELS if name not in supported_levels()]
    if not lacking:
        pytest.skip("this processor has every level")
    monkeypatch.setenv(SWITCH, lacking[0])
    with pytest.raises(
        LevelError, match=f"is {lacking[0]}, but the processor lacks {LEVELS[lacking[0]]}: it"
    ):
        missing.__wrapped__()


def test_the_reference_runs_everywhere() -> None:
    assert supported_levels()[-1] == "reference"


@pytest.mark.usefixtures("operators")
def test_the_level_is_named() -> None:
    assert level() in supported_levels()
    assert described_level() == level()
