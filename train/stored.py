"""A stored model as a checkpoint again: the weights of its fp32 graph.

It comes from a running appliance, or from the store of LMAAS_HOME, whether one runs there or not.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from transformers import GPT2Config

from client.errors import RefusedError, UnreachableError
from client.http import API_KEY, Client
from export.archive import unpack_archive
from export.checkpoint.config import Activation, Head
from export.checkpoint.folder import NGRAM_TABLE
from export.errors import ExportError
from export.graph.ngrams import PAIR_NODE
from runtime.contract import TOKENIZER_FILE, Kind, Variant
from runtime.manifest import Manifest
from train.checkpoint import save_tokenizer
from train.head_parts import BIDIRECTIONAL

if TYPE_CHECKING:
    from api.config import Settings

ACTIVATIONS = {
    "FastGelu": Activation.GELU_NEW,
    "BiasGelu": Activation.GELU,
    "Relu": Activation.RELU,
}
SMALL_HEADS = ("score.weight", "classifier.weight", "intent_head.weight", "slot_head.weight")
NOT_FOUND = 404


def fetch_stored(source: str, url: str, scratch: Path) -> Path | None:
    """The checkpoint of NAME or NAME/VERSION at an appliance, in a folder below `scratch`.

    None where nothing answers at `url`, or the appliance has no such model. Raises ClientError for another
    refusal, and ExportError where the artifact has no graph from which training can go on.
    """
    name, _, version = source.partition("/")
    archive = scratch / "stored.tar"
    try:
        with Client(url) as client:
            path = f"/v1/models/{quote(name, safe='')}/versions/{quote(version or 'latest', safe='')}/archive"
            client.download(path, str(archive))
    except UnreachableError:
        return None
    except RefusedError as error:
        if error.status == NOT_FOUND:
            return None
        raise
    unpacked = scratch / "stored"
    unpacked.mkdir()
    return write_checkpoint(unpack_archive(archive, unpacked), scratch / name, source)


def read_stored(source: str, scratch: Path) -> Path | None:
    """As `fetch_stored`, from the store of the settings (LMAAS_HOME and others); no appliance needs to run.

    None where this environment has no Model Store, or no such model is in it. Raises ExportError.
    """
    try:
        from api.environment import SettingsError, load_settings
        from api.errors import ApiError
    except ImportError:  # the extra `train` alone
        return None
    kept = {name: value for name, value in os.environ.items() if name not in ("LMAAS_URL", API_KEY)}
    try:
        settings = load_settings(kept)
        if settings.database_url is None and not (settings.home / "lmaas.db").is_file():
            return None
        artifact = asyncio.run(_place_stored(source, settings, scratch / "artifact"))
    except (ApiError, SettingsError) as error:
        raise ExportError(f"{source}: {error}", field="from") from None
    return None if artifact is None else write_checkpoint(artifact, scratch / "checkpoint", source)


async def _place_stored(source: str, settings: Settings, folder: Path) -> Path | None:
    """Lay out the artifact in `folder`; None where it is not stored. Raises ApiError, ExportError."""
    from api.back.store.blob_lock import BlobLock
    from api.back.store.blobs import BlobStore
    from api.back.store.database import Database
    from api.back.store.models import ModelStore
    from api.back.store.records import VersionState
    from api.errors import NotFound
    from export.members import ArchiveLimits

    back = settings.back
    async with Database.open(back.database) as database:
        blobs = BlobStore.open(back.blobs, back.blob_url, BlobLock(database, back.blob_lock))
        limits = ArchiveLimits(max_unpacked_bytes=back.max_unpacked_bytes)
        store = ModelStore(
            database, blobs, back.staging, max_archive_bytes=back.max_archive_bytes, limits=limits
        )
        await store.refresh()
        name, _, version = source.partition("/")
        try:
            found = await store.version(name, version or "latest")
        except NotFound:
            return None
        if found.state is not VersionState.READY:
            raise ExportError(f"{source} is {found.state.value}, not ready", field="from")
        await store.place_artifact(found, folder)
        return folder


def write_checkpoint(artifact: Path, folder: Path, source: str) -> Path:
    """Write the checkpoint folder of an artifact. Raises ExportError where its graph is not enough."""
    manifest = Manifest.load(artifact)
    if Variant.FP32 not in manifest.variants:
        kept = ", ".join(variant.value for variant in manifest.variants)
        raise ExportError(f"{source}: training begins from fp32, and the artifact has {kept}", field="from")
    model = onnx.load(artifact / manifest.variants[Variant.FP32].graph.path)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    head = _head(manifest)
    weights = {
        name: np.ascontiguousarray(array.T if name in SMALL_HEADS else array)
        for name, array in stored.items()
        if name.endswith((".weight", ".bias"))
    }
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    config = _config(source, manifest, head, weights, list(model.graph.node))
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    tokenizer = Tokenizer.from_file(str(artifact / TOKENIZER_FILE))
    save_tokenizer(folder, tokenizer, GPT2Config.from_dict(config))
    return folder


def _head(manifest: Manifest) -> Head:
    if manifest.kind is Kind.LM:
        return Head.LM
    if manifest.kind is Kind.CLASSIFIER:
        return Head.SEQUENCE
    return Head.JOINT if manifest.labels else Head.TOKEN


def _attribute(node: Any, name: str) -> float:
    return float(next(onnx.helper.get_attribute_value(each) for each in node.attribute if each.name == name))


def _config(
    source: str, manifest: Manifest, head: Head, weights: dict[str, Any], nodes: list[Any]
) -> dict[str, Any]:
    """config.json from the manifest and from the operators of the graph."""
    shape = manifest.architecture
    operators = {node.op_type: node for node in nodes}
    activation = next(value for name, value in ACTIVATIONS.items() if name in operators)
    norm = operators["SkipLayerNormalization"]
    attention = [node for node in nodes if node.op_type in ("GroupQueryAttention", "MultiHeadAttention")]
    usual = shape.head_size**-0.5
    if any(abs(_attribute(node, "scale") - usual) > 1e-6 for node in attention):
        raise ExportError(
            f"{source}: its attention is scaled in a way that training does not have", field="from"
        )
    found: dict[str, Any] = {
        "architectures": [head.value],
        "model_type": "gpt2",
        "n_layer": shape.num_layers,
        "n_head": shape.num_heads,
        "n_embd": shape.hidden_size,
        "n_positions": shape.context_length,
        "vocab_size": shape.vocab_size,
        "eos_token_id": shape.eos_token_id,
        "bos_token_id": shape.eos_token_id,
        "pad_token_id": shape.pad_token_id,
        "activation_function": activation.value,
        # The shortest decimal of the float32, which is what was in config.json.
        "layer_norm_epsilon": float(str(np.float32(_attribute(norm, "epsilon")))),
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "problem_type": manifest.problem_type,
    }
    found |= _own_keys(manifest, weights, nodes)
    labels = manifest.slot_labels if head is Head.TOKEN else manifest.labels
    if labels:
        found["id2label"] = {str(index): label for index, label in enumerate(labels)}
        found["label2id"] = {label: index for index, label in enumerate(labels)}
    if head is Head.JOINT:
        found["slot_labels"] = list(manifest.slot_labels)
        found["slot_transitions"] = manifest.slot_transitions
    return found


def _own_keys(manifest: Manifest, weights: Mapping[str, Any], nodes: Sequence[Any]) -> dict[str, Any]:
    """This project's own keys of config.json, and the width of the MLPs, which may differ by layer."""
    shape = manifest.architecture
    neurons = [int(weights[f"h.{n}.mlp.c_fc.weight"].shape[1]) for n in range(shape.num_layers)]
    both_sides = any(node.op_type == "MultiHeadAttention" for node in nodes)
    found: dict[str, Any] = {
        "n_inner": max(neurons),
        "nlu_echo": manifest.nlu_echo,
        "attention": BIDIRECTIONAL if both_sides else "causal",
    }
    if len(set(neurons)) > 1:
        found["layer_neurons"] = neurons
    if shape.layer_heads:
        found["layer_heads"] = list(shape.layer_heads)
    if NGRAM_TABLE in weights:
        look_ups = [node for node in nodes if node.op_type == "Gather" and node.input[0] == NGRAM_TABLE]
        found["ngram_buckets"] = len(weights[NGRAM_TABLE])
        found["ngram_orders"] = [int(node.name.rpartition(".")[2]) for node in look_ups]
        found["ngram_pairs"] = any(node.name == PAIR_NODE for node in nodes)
    return found
