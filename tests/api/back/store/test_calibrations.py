"""Calibrations in the Model Store: kept, seen by other façades, downloaded and uploaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from api.back.store.records import VersionRecord
from api.errors import Conflict
from runtime.calibration import Calibration
from tests.api.back.stores import Stores, open_stores

pytestmark = pytest.mark.anyio
Upload = Callable[[str], Path]
FOUND = Calibration(1.5, 0.6, "accuracy where answered >= 0.95", 100, {"log loss": 0.25})


async def converted(stores: Stores, archive: Path, name: str) -> VersionRecord:
    version, _ = await stores.models.add_upload(name, archive, archive.name)
    return await stores.converter.convert(version)


async def test_it_is_kept_and_downloaded_and_comes_back(
    stores: Stores, upload: Upload, tmp_path: Path
) -> None:
    models = stores.models
    version = await converted(stores, upload("classifier"), "tiny")
    plain = await models.archive("tiny", 1)
    async with open_stores(stores.settings) as other:
        await models.calibrations.set(version, FOUND)
        assert (await models.version("tiny", 1)).calibration == FOUND
        assert models.calibrations.of("tiny", 1) == FOUND
        assert other.models.calibrations.of("tiny", 1) is None
        await other.models.refresh()
        assert other.models.calibrations.of("tiny", 1) == FOUND
    download = await models.archive("tiny", 1)
    assert download.etag != plain.etag
    archive = tmp_path / download.filename
    archive.write_bytes(b"".join([chunk async for chunk in download.read()]))
    assert archive.stat().st_size == download.size
    copy = await converted(stores, archive, "copy")
    assert copy.calibration == models.calibrations.of("copy", 1) == FOUND
    await models.calibrations.set(version, None)
    assert (await models.version("tiny", 1)).calibration is None
    assert models.calibrations.of("tiny", 1) is None
    assert (await models.archive("tiny", 1)).etag == plain.etag


async def test_only_what_has_probabilities_of_labels_is_calibrated(stores: Stores, upload: Upload) -> None:
    uploaded, _ = await stores.models.add_upload("tiny", upload("classifier"), "x")
    with pytest.raises(Conflict, match="not ready"):
        await stores.models.calibrations.set(uploaded, FOUND)
    with pytest.raises(Conflict, match="language model"):
        await stores.models.calibrations.set(await converted(stores, upload("lm"), "text"), FOUND)
