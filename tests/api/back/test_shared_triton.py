"""Two façades over one PostgreSQL use one Triton elsewhere: neither undoes what the other one serves."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from api.back.backend import Backend
from api.back.cluster.installation import Installation, assemble_backends
from api.back.cluster.server_home import Ports, ServerHome
from api.back.settings import BackSettings
from bench.chaos.services import Postgres
from tests.api.back.cluster.requests import complete, language_model, stub_pids, until
from tests.api.back.cluster.test_remote import KEY, Elsewhere
from tests.e2e.appliance import free_port

pytestmark = pytest.mark.anyio


async def test_a_triton_is_shared(
    archives: dict[str, Path], cluster_settings: BackSettings, postgres: Postgres, tmp_path: Path
) -> None:
    there = BackSettings(home=tmp_path / "elsewhere")
    assemble_backends(there, Installation.find())
    triton = Elsewhere(ServerHome(there), Ports(None, free_port(), free_port()))
    triton.home.repository.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    shared = dataclasses.replace(
        cluster_settings,
        database_url=postgres.create_database(),
        blob_url=(tmp_path / "blobs").as_uri(),
        servers=0,
        triton_urls=(triton.url,),
        triton_repository=str(triton.home.repository),
        triton_key=KEY,
    )
    one, two = (dataclasses.replace(shared, home=tmp_path / name) for name in ("one", "two"))
    await triton.start()
    assert triton.process is not None
    try:
        async with Backend.open(one) as first:
            upload = Path(shutil.copy(archives["lm"], tmp_path / "upload"))
            version, _ = await first.models.add_upload("tiny", upload, "lm")
            await first.converter.convert(version)
            record = await first.cluster.deploy("tiny", 1, "fp32")
            expected = await complete(first, language_model(first))
            pids = stub_pids(there, "tiny", 1)
            for _ in range(2):  # the other façade comes, goes, comes again and goes
                async with Backend.open(two) as second:
                    await until(lambda: second.cluster.readiness().probes, "it is there")
                    await until(lambda: second.cluster.readiness().ready, "it answers")
                    assert await complete(second, language_model(second)) == expected
                assert await complete(first, language_model(first)) == expected
                assert stub_pids(there, "tiny", 1) == pids
            async with Backend.open(two) as second:
                await until(lambda: second.cluster.readiness().ready, "it answers")
                await second.cluster.undeploy(record.id)
                await until(lambda: not first.cluster.deployments(), "undeployed by both")
                await until(lambda: not stub_pids(there, "tiny", 1), "its process is gone")
        assert list(triton.home.repository.glob("[!.]*")) == []
    finally:
        await triton.process.kill()
