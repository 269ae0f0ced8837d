"""A narrower model from a wider one: its weights on the axes on which what its blocks read differs most.

What a block reads and writes is a point of `width` numbers. All points are projected onto the same axes, the
principal components of what the norms read (as in SliceGPT, Ashkboos et al., 2024, arXiv 2401.15024), and
each layer keeps the heads and neurons that matter most, as in train/pruning.py. The result is a start for
distillation, not a model to use: it has lost a part of each point, and learns again from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from train.batching import Batch
from train.pruning import measure_importance
from train.start import Start
from train.training import Training

TOKENS = 20_000  # on which the axes, and what matters, are measured, at least

Tensors = Mapping[str, Tensor]


def with_width(start: Start, wide: Training, width: int, neurons: int | None = None) -> Start:
    """A start with a narrower body: heads of the same size, `neurons` in each layer.

    `wide` is a training of the start's model, by whose rows it is measured. Heads of a classifier or an nlu
    model are new. A bag of n-grams has no width, and stays. Raises ValueError for a width that is no multiple
    of the head size below the old width, and for more neurons than the start has.
    """
    config, old = start.config, start.tensors
    size, most = config.n_embd // config.n_head, config.n_inner or 4 * config.n_embd
    if not 0 < width < config.n_embd or width % size:
        raise ValueError(
            f"width: {width}: a multiple of the head size {size}, below {config.n_embd}, is needed"
        )
    inner = min(4 * width, most) if neurons is None else neurons
    if not 0 < inner <= most:
        raise ValueError(f"neurons: {inner}: from 1 to {most}, the start's, are needed")
    batches = _some(wide)
    with _spread_of(wide.module) as spread:
        importance = measure_importance(wide.module, wide.loss, batches)
    axes, scale = _axes(spread, width)
    kept = {name: old[name].float() @ axes for name in ("wte.weight", "wpe.weight")}
    if "lm_head.weight" in old:  # of a model whose head is not its embedding
        kept["lm_head.weight"] = old["lm_head.weight"].float() @ axes
    kept |= {name: tensor for name, tensor in old.items() if name.startswith("ngrams.")}
    heads = [_best(layer, width // size) for layer in importance.heads]
    inside = [(some[:, None] * size + torch.arange(size)).flatten() for some in heads]
    units = [_best(layer, inner) for layer in importance.neurons]
    for layer, parts in enumerate(zip(inside, units, strict=True)):
        before = f"h.{layer}."
        block = {name.removeprefix(before): old[name].float() for name in old if name.startswith(before)}
        kept |= {before + name: tensor for name, tensor in _block(block, *parts, axes, scale).items()}
    # A norm's output has no mean, and these are the gains that are right for all that has none.
    gains = (axes * old["ln_f.weight"].float()[:, None] * axes).sum(dim=0) / (axes * axes).sum(dim=0)
    kept |= {"ln_f.weight": gains * scale, "ln_f.bias": old["ln_f.bias"].float() @ axes}
    config.n_embd, config.n_head = width, width // size
    config.n_inner = None if inner == 4 * width else inner
    _set_widths(config, "layer_heads", [len(some) for some in heads], width // size)
    _set_widths(config, "layer_neurons", [len(some) for some in units], inner)
    return replace(start, tensors=kept)


def _some(training: Training) -> list[Batch]:
    """The first batches, with at least TOKENS tokens if there are as many."""
    found: list[Batch] = []
    for index in range(len(training.batches)):
        if sum(batch["rows"].numel() for batch in found) >= TOKENS:
            break
        found.append(training.batches[index])
    return found


@contextmanager
def _spread_of(model: Any) -> Iterator[Tensor]:
    """[width, width], filled within the block: how the directions of what the norms read are spread."""
    body = model.transformer
    total = torch.zeros(body.config.n_embd, body.config.n_embd)

    def add(module: Any, inputs: tuple[Tensor]) -> None:
        points = inputs[0].detach().flatten(0, -2).float()
        points = points - points.mean(dim=1, keepdim=True)
        points = points / points.norm(dim=1, keepdim=True).clamp_min(1e-12)
        points = points - points.mean(dim=0)
        total.add_((points.T @ points).cpu())

    norms = [body.ln_f, *(norm for block in body.h for norm in (block.ln_1, block.ln_2))]
    hooks = [norm.register_forward_pre_hook(add) for norm in norms]
    try:
        yield total
    finally:
        for hook in hooks:
            hook.remove()


def _axes(spread: Tensor, width: int) -> tuple[Tensor, float]:
    """[old width, width] axes, and the length of a normalized point on them as a share of a narrow one's.

    A layer norm takes the mean of a point's numbers away. The axes are turned so that this mean is zero: it
    would take one of them away.
    """
    values, directions = torch.linalg.eigh(spread.double())
    share = float(values[1 - width :].sum() / values.sum())
    turned = torch.linalg.qr(torch.cat([torch.ones(width, 1), torch.eye(width)[:, 1:]], dim=1)).Q[:, 1:]
    axes = directions[:, 1 - width :].float() @ turned.T
    return axes, (share * len(spread) / width) ** 0.5


def _best(importance: Tensor, count: int) -> Tensor:
    """The places of the `count` largest, in order."""
    return importance.argsort(descending=True, stable=True)[:count].sort().values


def _block(block: Tensors, inside: Tensor, units: Tensor, axes: Tensor, scale: float) -> dict[str, Tensor]:
    """A block's weights on the axes, with these columns of its heads and these neurons."""
    packed = torch.cat([inside + part * len(block["attn.c_proj.weight"]) for part in range(3)])
    made: dict[str, Tensor] = {}
    for norm, name, kept in (("ln_1", "attn.c_attn", packed), ("ln_2", "mlp.c_fc", units)):
        # What the norm multiplies with and adds goes into the matrix that reads it.
        weight = block[f"{name}.weight"][:, kept]
        made[f"{name}.weight"] = axes.T @ (block[f"{norm}.weight"][:, None] * weight) * scale
        made[f"{name}.bias"] = block[f"{name}.bias"][kept] + block[f"{norm}.bias"] @ weight
        made |= {f"{norm}.weight": torch.ones(axes.shape[1]), f"{norm}.bias": torch.zeros(axes.shape[1])}
    for name, kept in (("attn.c_proj", inside), ("mlp.c_proj", units)):
        made[f"{name}.weight"] = block[f"{name}.weight"][kept] @ axes
        made[f"{name}.bias"] = block[f"{name}.bias"] @ axes
    return made


def _set_widths(config: Any, key: str, found: list[int], usual: int) -> None:
    """Name the widths of the layers where one of them, of a pruned start, has less than is usual."""
    if set(found) != {usual}:
        setattr(config, key, found)
    elif hasattr(config, key):
        delattr(config, key)
