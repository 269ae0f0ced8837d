"""A real Triton over two tiny models, started once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as grpc

from api.back.cluster.installation import Installation, assemble_backends
from api.back.cluster.repository import CONFIG_FILE, config_text
from api.back.cluster.server_home import Ports, ServerHome
from api.back.cluster.triton_process import TritonProcess
from api.back.settings import BackSettings
from runtime.contract import Variant
from runtime.manifest import Manifest
from tests.e2e.appliance import free_port
from tests.runtime.engines import version_folder
from tests.runtime.triton.clients import Server


@pytest.fixture(scope="session")
def classifier_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from export.pipeline import export_checkpoint
    from tests.export.checkpoints import save_classifier

    folder = tmp_path_factory.mktemp("classifier")
    (folder / "checkpoint").mkdir()
    save_classifier(folder / "checkpoint")
    artifact = folder / "artifact"
    export_checkpoint(folder / "checkpoint", artifact, name="tiny-head", variants=[Variant.FP32])
    return artifact


def lay_out(repository: Path, name: str, artifact: Path, **settings: int) -> Path:
    """One version of one model, as the Cluster Manager lays it out."""
    folder = version_folder(artifact, repository / name / "1", "fp32", **settings)
    (repository / name / CONFIG_FILE).write_text(config_text(Manifest.load(artifact).kind))
    return folder


@pytest.fixture(scope="session")
def server(
    lm_artifact: Path, classifier_artifact: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    settings = BackSettings(home=tmp_path_factory.mktemp("triton"), triton_http_port=0)
    settings.logs.mkdir(parents=True)
    home = ServerHome(settings)
    lay_out(home.repository, "lm", lm_artifact, num_slots=2, prefill_chunk=16)
    lay_out(home.repository, "head", classifier_artifact)
    installation = Installation.find()
    assemble_backends(settings, installation)
    first = free_port(3)
    ports = Ports(http=first, grpc=first + 1, metrics=first + 2)
    loop = asyncio.new_event_loop()
    process = loop.run_until_complete(TritonProcess.start(home, installation, ports))
    try:
        with grpc.InferenceServerClient(f"127.0.0.1:{ports.grpc}") as client:
            server = Server(client, ports, home.repository, process.key)
            server.load("lm")
            server.load("head")
            yield server
    finally:
        loop.run_until_complete(process.kill())
        loop.close()
