"""A stored artifact becomes the checkpoint again that it was exported from."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import GPT2ForSequenceClassification

from api.back.settings import BackSettings
from export.archive import pack_folder
from export.checkpoint.folder import Checkpoint, expected_shapes
from export.errors import ExportError
from export.pipeline import export_checkpoint
from runtime.contract import Variant
from runtime.manifest import Manifest
from tests.api.back.stores import Stores, open_stores
from tests.export.checkpoints import save_joint_reader, save_lm, save_pair_reader, save_reader
from tests.train.tiny import tiny_config, tiny_tokenizer
from train.checkpoint import save_checkpoint
from train.pruning import cut
from train.start import open_folder
from train.stored import fetch_stored, read_stored, write_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def pruned(folder: Path) -> None:
    """A classifier whose layers differ in width."""
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer)
    config.n_head, config.pad_token_id, config.num_labels = 4, 0, 2
    model = GPT2ForSequenceClassification(config)
    heads, neurons = [torch.tensor([0, 2, 3]), torch.tensor([1])], [torch.arange(40), torch.arange(256)]
    cut(model.transformer, heads, neurons)
    save_checkpoint(folder, model, config, tokenizer, architectures=["GPT2ForSequenceClassification"])


MADE = {
    "own parts": save_reader,
    "own parts, pairs": save_pair_reader,
    "own parts, jointly": save_joint_reader,
    "pruned": pruned,
}


@pytest.mark.parametrize("name", ["mini-nlu", "mini-sentiment", *MADE])
def test_the_weights_and_the_config_come_back(tmp_path: Path, name: str) -> None:
    source = ROOT / "models" / name
    if name in MADE:
        source = tmp_path / "source"
        MADE[name](source)
    export_checkpoint(source, tmp_path / "artifact", name="x", variants=[Variant.FP32])
    folder = write_checkpoint(tmp_path / "artifact", tmp_path / "checkpoint", name)
    before, after = Checkpoint.open(source), Checkpoint.open(folder)
    assert after.config == before.config
    for weight in expected_shapes(before.config):
        np.testing.assert_array_equal(after.weight(weight), before.weight(weight))
    text = ("play some jazz", "a fine film")
    assert after.tokenizer.encode(*text).ids == before.tokenizer.encode(*text).ids


def test_an_artifact_needs_its_fp32_graph(tmp_path: Path) -> None:
    source = ROOT / "models" / "mini-sentiment"
    export_checkpoint(source, tmp_path / "artifact", name="m", variants=[Variant.INT8])
    with pytest.raises(ExportError, match="begins from fp32, and the artifact has int8"):
        write_checkpoint(tmp_path / "artifact", tmp_path / "checkpoint", "m")


def test_no_appliance_is_no_error(tmp_path: Path) -> None:
    assert fetch_stored("gpt2", "http://127.0.0.1:9", tmp_path) is None


async def stored(stores: Stores, folder: Path) -> None:
    """The checkpoint as the first version of a model, whose second version is not converted."""
    for layers in (1, 2):
        source = folder / f"source-{layers}"
        save_lm(source, n_layer=layers)
        pack_folder(source, archive := folder / f"{layers}.tar.gz")
        version, _ = await stores.models.add_upload("tiny", archive, archive.name)
        if layers == 1:
            artifact = folder / "artifact"
            export_checkpoint(source, artifact, name="tiny", variants=[Variant.FP32])
            await stores.models.finish(version, Manifest.load(artifact), artifact)


def test_a_stored_model_needs_no_running_appliance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, nowhere = tmp_path / "home of its own", "http://127.0.0.1:9"
    monkeypatch.setenv("LMAAS_HOME", str(home))
    weight = "h.0.mlp.c_fc.weight"

    def begin(name: str) -> tuple[NDArray[np.float32], str]:
        with open_folder(name, nowhere) as (folder, origin):
            return Checkpoint.open(folder).weight(weight).copy(), origin

    async def work() -> None:
        async with open_stores(BackSettings(home=home)) as stores:
            await stored(stores, tmp_path)
            # Beside what has the store open, as a running appliance has.
            for name in ("tiny", "tiny/1"):
                found, origin = await asyncio.to_thread(begin, name)
                assert origin == f"the stored model {name}"
                before = Checkpoint.open(tmp_path / "source-1")
                np.testing.assert_array_equal(found, before.weight(weight))

    asyncio.run(work())
    with pytest.raises(ExportError, match="tiny/2 is uploaded, not ready"):
        begin("tiny/2")
    assert [read_stored(name, tmp_path) for name in ("tiny/3", "absent", "a/b")] == [None, None, None]
    monkeypatch.setenv("LMAAS_HOME", str(tmp_path / "none"))
    assert read_stored("tiny", tmp_path) is None
    assert not (tmp_path / "none").exists()
