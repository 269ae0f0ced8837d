"""Opens what a user names: a checkpoint's folder, an artifact's folder, or a model that is deployed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.http import DEFAULT_URL
from export.verification.oracles import Unavailable
from runtime.calibration import CalibrationError
from runtime.errors import ModelError, RequestFault
from runtime.manifest import MANIFEST_FILE, ManifestError
from train.evaluation.artifact import open_artifact
from train.evaluation.deployment import open_deployment
from train.evaluation.errors import EvaluationError
from train.evaluation.target import Target

CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class Options:
    """How targets are opened."""

    url: str = DEFAULT_URL
    precision: str | None = None  # of an artifact; None: fp32
    threads: int = 2  # of a model that runs in this process
    raw_scores: bool = False  # of a deployment: without its calibration


@contextmanager
def open_target(name: str, options: Options) -> Iterator[Target]:
    """A name is a folder, or MODEL or MODEL/VERSION of the appliance.

    Raises EvaluationError, ExportError and the family of client/errors.py.
    """
    try:
        with _open(name, options) as target:
            yield target
    except (ModelError, ManifestError, CalibrationError, RequestFault, Unavailable) as error:
        raise EvaluationError(f"{name}: {error}") from None


@contextmanager
def _open(name: str, options: Options) -> Iterator[Target]:
    folder = Path(name)
    with ExitStack() as stack:
        if (folder / MANIFEST_FILE).is_file():
            yield stack.enter_context(
                open_artifact(folder, options.precision, options.threads, raw_scores=options.raw_scores)
            )
        elif (folder / CONFIG_FILE).is_file():
            from train.evaluation.checkpoint import open_checkpoint

            yield stack.enter_context(open_checkpoint(folder, options.threads))
        elif folder.is_dir():
            raise EvaluationError(
                f"{name}: neither {MANIFEST_FILE} of an artifact nor {CONFIG_FILE} is there"
            )
        else:
            yield stack.enter_context(open_deployment(name, options.url, raw_scores=options.raw_scores))
