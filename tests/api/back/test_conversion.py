"""Conversions in their child process: the outcome is recorded, the limits hold, nothing is left behind."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from api.back.conversion import Converter
from api.back.store.records import VersionRecord, VersionState
from api.errors import InvalidInput, ServerFault
from export.archive import pack_folder, unpack_archive
from runtime.contract import Kind, Variant
from tests.api.back.stores import Stores

pytestmark = pytest.mark.anyio
Upload = Callable[[str], Path]


async def uploaded(stores: Stores, upload: Upload) -> VersionRecord:
    return (await stores.models.add_upload("tiny", upload("lm"), "lm.tar.gz"))[0]


def limited(stores: Stores, **limits: Any) -> Converter:
    return Converter(dataclasses.replace(stores.settings, **limits), stores.models)


def left_over(stores: Stores) -> list[Path]:
    return list(stores.settings.staging.glob("*"))


async def test_a_checkpoint_becomes_an_artifact(stores: Stores, upload: Upload) -> None:
    events: list[dict[str, Any]] = []
    version = await stores.converter.convert(await uploaded(stores, upload), events.append)
    assert (version.state, version.kind) == (VersionState.READY, Kind.LM)
    assert version.manifest is not None
    assert set(version.manifest.variants) == {Variant.FP32, Variant.INT8}
    assert {"manifest.json", "tokenizer.json", "int8/model.onnx"} <= set(version.files)
    assert stores.blob_files() == {version.archive_sha256, *(file.sha256 for file in version.files.values())}
    assert [event["done"] for event in events] == sorted(event["done"] for event in events)
    assert set(events[0]) == {"stage", "done", "total"}
    assert events[-1]["done"] == events[-1]["total"]
    assert left_over(stores) == []
    assert await stores.converter.convert(version) == version


async def test_a_broken_checkpoint_fails_with_its_reason(
    stores: Stores, archives: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    config = unpack_archive(archives["lm"], tmp_path / "broken") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "llama"}))
    archive = tmp_path / "broken.tar.gz"
    pack_folder(config.parent, archive)
    version, _ = await stores.models.add_upload("tiny", archive, "broken.tar.gz")
    with pytest.raises(InvalidInput, match="llama") as caught:
        await stores.converter.convert(version)
    assert caught.value.errors[0].field == "file"
    failed = await stores.models.version("tiny", 1)
    assert failed.state is VersionState.FAILED
    assert failed.error is not None
    assert "llama" in failed.error
    assert left_over(stores) == []


async def test_the_memory_limit_holds(stores: Stores, upload: Upload) -> None:
    version = await uploaded(stores, upload)
    with pytest.raises(ServerFault, match="75497472 bytes of memory"):
        await limited(stores, convert_memory_bytes=72 * 1024**2).convert(version)
    assert (await stores.models.version("tiny", 1)).state is VersionState.FAILED
    again = await stores.converter.convert(await stores.models.version("tiny", 1))
    assert again.state is VersionState.READY
    assert again.error is None


async def test_the_time_limit_holds(stores: Stores, upload: Upload) -> None:
    version = await uploaded(stores, upload)
    with pytest.raises(ServerFault, match=r"longer than 0\.2 s"):
        await limited(stores, convert_timeout_seconds=0.2).convert(version)
    assert (await stores.models.version("tiny", 1)).state is VersionState.FAILED
    assert left_over(stores) == []
    assert exporters(stores) == []


async def test_cancelling_ends_the_child(stores: Stores, upload: Upload) -> None:
    version = await uploaded(stores, upload)
    begun = asyncio.Event()
    task = asyncio.create_task(stores.converter.convert(version, lambda event: begun.set()))
    await begun.wait()
    assert exporters(stores)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert exporters(stores) == []
    assert left_over(stores) == []
    assert (await stores.models.version("tiny", 1)).state is VersionState.UPLOADED


def exporters(stores: Stores) -> list[int]:
    """The processes whose command line names this home's staging folder."""
    staging = str(stores.settings.staging.absolute())
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(staging in argument for argument in process.info["cmdline"] or [])
    ]
