"""The drills of one façade with SQLite."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tarfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from bench.drills.site import Drill, Site
from bench.facades import ROOT, Facade
from perf.errors import LoadError

MODEL = "mini-lm"
LASTS_SECONDS = 15.0
ROOM_LEFT = 64 * 1024  # bytes, on a disk that is full
CANARY = {"shadow": 1.0, "max_disagreement": 0.1, "min_requests": 20}
CALLERS = 4


async def kill_model(site: Site) -> None:
    site.facade.stub(MODEL).kill()


async def stop_model(site: Site) -> None:
    site.facade.stub(MODEL).suspend()


async def kill_triton(site: Site) -> None:
    site.facade.triton().kill()


async def stop_triton(site: Site) -> None:
    site.facade.triton().suspend()


async def kill_facade(site: Site) -> None:
    site.facade.kill()
    site.facade.start()


async def restart_facade(site: Site) -> None:
    await asyncio.to_thread(site.facade.stop)
    site.facade.start()


async def lock_database(site: Site) -> None:
    def lock() -> None:
        with closing(sqlite3.connect(site.home / "lmaas.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(LASTS_SECONDS)

    await asyncio.to_thread(lock)


async def fill_disk(site: Site) -> None:
    filler = site.home / "filler"
    try:
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(site.home).free - ROOM_LEFT))
        await asyncio.sleep(LASTS_SECONDS)
    finally:
        filler.unlink()


def worse_checkpoint(folder: Path) -> Path:
    """The bundled model with noise in its weights: it loads, and answers something else."""
    shutil.copytree(ROOT / "models" / MODEL, folder, dirs_exist_ok=True)
    weights = load_file(folder / "model.safetensors")
    chance = np.random.default_rng(0)
    for name, values in weights.items():
        if values.ndim == 2:
            noise = chance.standard_normal(values.shape) * values.astype(np.float32).std()
            weights[name] = (values + noise).astype(values.dtype)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


async def bad_canary(site: Site) -> float:
    """Until it has lost its traffic, from its deployment on."""
    checkpoint = await asyncio.to_thread(worse_checkpoint, site.folder / "worse")
    await site.succeed("models", "push", MODEL, str(checkpoint))
    begin = time.monotonic()
    body = {"model": MODEL, "version": 2, "traffic_weight": 10, "canary": CANARY}
    (await site.client.post("/v1/deployments", json=body)).raise_for_status()
    callers = [asyncio.create_task(_ask_on(site)) for _ in range(CALLERS)]
    try:
        await asyncio.wait_for(site.until_weight(MODEL, 2, 0), LASTS_SECONDS * 4)
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    seconds = time.monotonic() - begin
    await site.succeed("undeploy", (await site.deployment(MODEL, 2))["id"])
    return seconds


async def _ask_on(site: Site) -> None:
    while True:
        await site.client.post("/v1/generate", json={"model": MODEL, "prompt": "The dog", "temperature": 0})


async def bad_version(site: Site) -> float:
    """Until the version before serves again."""
    await site.succeed("deploy", MODEL, "--version", "2", "--replace")
    begin, output = time.monotonic(), ""
    while time.monotonic() - begin < LASTS_SECONDS * 4:
        status, output = await site.lmaas("deploy", MODEL, "--version", "1", "--replace")
        if not status:
            return time.monotonic() - begin
    raise LoadError(f"the version before does not come back: {output[-500:]}")


async def damaged_artifact(site: Site) -> None:
    """It has to be refused."""
    archive, folder = site.folder / "artifact.tar.gz", site.folder / "artifact"
    archive.write_bytes((await site.client.get(f"/v1/models/{MODEL}/versions/1/archive")).content)
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")
    graph = next(folder.rglob("fp32/model.onnx"))
    content_of_graph = bytearray(graph.read_bytes())
    content_of_graph[len(content_of_graph) // 2] ^= 1
    graph.write_bytes(content_of_graph)
    status, output = await site.lmaas("models", "push", "damaged", str(graph.parents[1]))
    if not status or "sha256" not in output:
        raise LoadError(f"a damaged artifact was not refused as such: {output[-500:]}")


async def damaged_blob(site: Site) -> None:
    """`lmaas store fsck` has to name it, while what is loaded goes on."""
    blob = max((path for path in (site.home / "blobs").rglob("*") if path.is_file()), key=_size)
    content = blob.read_bytes()
    os.chmod(blob, 0o600)
    blob.write_bytes(b"damaged" + content[7:])
    try:
        status, output = await site.lmaas("store", "fsck")
    finally:
        blob.write_bytes(content)
    if status != 1 or "has other bytes" not in output:
        raise LoadError(f"a damaged file was not found: {output[-500:]}")


def _size(path: Path) -> int:
    return path.stat().st_size


async def lost_machine(site: Site) -> float:
    """Until what the backup has serves from another home."""
    backup, restored = site.folder / "lmaas.tar", site.folder / "restored"
    await site.succeed("backup", str(backup))
    site.facade.kill()
    begin = time.monotonic()
    await site.succeed("restore", str(backup), "--home", str(restored))
    site.facade = Facade(restored, site.port, {})
    await site.start()
    return time.monotonic() - begin


FULL_DISK = "the disk is full, 15 s"
ALONE: Mapping[str, Drill] = {
    "a model's process dies": kill_model,
    "a model's process hangs": stop_model,
    "Triton dies": kill_triton,
    "Triton hangs": stop_triton,
    "the façade dies, and is started at once": kill_facade,
    "the façade is restarted": restart_facade,
    "SQLite is locked, 15 s": lock_database,
    FULL_DISK: fill_disk,
    "a bad version as a canary": bad_canary,
    "a bad version in use": bad_version,
    "a damaged artifact": damaged_artifact,
    "a damaged blob": damaged_blob,
    "the machine is lost": lost_machine,
}
