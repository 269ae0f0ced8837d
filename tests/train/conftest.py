"""Where the data folder is, and skipping without it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def data() -> Path:
    """The data folder: TRAINING_DATA, by default `../shared/data` beside the repository."""
    folder = Path(os.environ.get("TRAINING_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set TRAINING_DATA")
    return folder


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of the bundled checkpoints."""
    return ROOT / "models"
