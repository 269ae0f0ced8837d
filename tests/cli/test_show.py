"""What the terminal shows of texts that others wrote."""

from __future__ import annotations

import pytest

from cli.show import print_table
from cli.tasks import print_understood


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/x] y", ":smile:", "[1]", "naïve 😀"])
def test_cells_are_shown_as_they_are(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("slot", "value"), [("a", text)], "none")
    assert text in capsys.readouterr().out


def test_a_model_that_tags_slots_alone(capsys: pytest.CaptureFixture[str]) -> None:
    slot = {"name": "genre", "value": "jazz", "start": 5, "end": 9, "score": 0.9}
    print_understood({"intent": None, "slots": [slot]})
    assert "jazz" in capsys.readouterr().out
