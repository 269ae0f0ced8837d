"""The GPT-2 body: embeddings and transformer blocks up to the last norm, for every graph.

Residual and normed activations are separate tensors; SkipLayerNormalization adds, norms and returns both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.checkpoint.config import Activation, cache_head_size
from export.checkpoint.folder import Checkpoint
from export.graph.builder import GraphBuilder
from export.graph.weights import Floats, Weights
from runtime.contract import LmGraph


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """Tensors that every layer's attention reads."""

    seqlens_k: str  # [batch] int32, tokens of a row after this run, less one
    total_sequence_length: str  # [] int32
    cached: bool  # past and present of LmGraph, or no cache at all
    lengths: str = ""  # [batch] int32, tokens of a row: where attention is bidirectional


class Body:
    """Builds the nodes from token ids to the last norm."""

    def __init__(
        self, graph: GraphBuilder, checkpoint: Checkpoint, weights: Weights, attention: AttentionInputs
    ) -> None:
        self._graph = graph
        self._checkpoint = checkpoint
        self._config = checkpoint.config
        self._weights = weights
        self._attention = attention
        self._packed_shapes: dict[int, str] = {}  # of c_attn's output, by the number of heads

    # input_ids -- flat -- wte --+
    #                            +-- h.0.ln_1 --> block 0 --> ... --> block n-1 --> ln_f --> out
    # positions -- flat -- wpe --+        \_ residual _/         (rows: from the last attention on)
    def build(self, input_ids: str, position_ids: str, rows: str | None, output: str) -> str:
        """Returns `output`: `[batch * sequence, hidden]`, or `[rows, hidden]` where `rows` picks positions.

        Everything but attention is two-dimensional, one row per token: no operator mixes rows.
        """
        graph, config = self._graph, self._config
        ids = graph.node("Reshape", "ids.flat", [input_ids, graph.integers(-1)])
        flat_positions = graph.node("Reshape", "positions.flat", [position_ids, graph.integers(-1)])
        sides = graph.node("Shape", "ids.shape", [input_ids])
        for heads in sorted(set(config.layer_heads), reverse=True):
            width = graph.integers(3 * heads * cache_head_size(config.head_size))
            name = "packed.shape" if heads == config.num_heads else f"packed.shape.{heads}"
            self._packed_shapes[heads] = graph.node("Concat", name, [sides, width], axis=0)
        tokens = self._weights.embedding("wte", ids, self._checkpoint.weight("wte.weight"))
        positions = graph.node("Gather", "wpe", [self._parameter("wpe.weight"), flat_positions])
        normed, residual = self._skip_norm("h.0.ln_1", tokens, positions, None)
        last = config.num_layers - 1
        for layer in range(last):
            normed, residual = self._block(layer, normed, residual, None, None)
        return self._block(last, normed, residual, rows, output)[0]

    # normed -- attn.c_attn -- attn -- (rows) -- attn.c_proj --+
    # residual ----------------------- (rows) -----------------+-- ln_2 -- mlp.c_fc -- mlp.act -- mlp.c_proj
    #                                                               \_ residual ________________ + _____/
    #                                                                                        next norm
    def _block(
        self, layer: int, normed: str, residual: str, rows: str | None, output: str | None
    ) -> tuple[str, str]:
        """One block with the norm after it. With `rows`, all other rows are dropped before c_proj."""
        path = f"h.{layer}"
        weight, bias, out_weight = self._attention_weights(layer)
        normed = self._weights.narrow(f"{path}.ln_1", normed)
        packed = self._weights.linear(f"{path}.attn.c_attn", normed, weight, bias)
        context = self._attend(layer, packed, out_weight.shape[0])
        if rows is not None:
            context = self._graph.node("Gather", f"{path}.attn.rows", [context, rows])
            residual = self._graph.node("Gather", f"{path}.residual.rows", [residual, rows])
            self._weights.rows_change()
        projected = self._weights.linear(f"{path}.attn.c_proj", context, out_weight)
        normed, residual = self._join(f"{path}.attn.c_proj", f"{path}.ln_2", projected, residual)
        normed = self._weights.narrow(f"{path}.ln_2", normed)
        active = self._activate(f"{path}.mlp", self._linear(f"{path}.mlp.c_fc", normed))
        down = self._linear(f"{path}.mlp.c_proj", active, self._config.activation.lowest)
        last = layer == self._config.num_layers - 1
        norm = "ln_f" if last else f"h.{layer + 1}.ln_1"
        return self._join(f"{path}.mlp.c_proj", norm, down, residual, output, last=last)

    def _join(
        self,
        path: str,
        norm: str,
        product: str,
        residual: str,
        output: str | None = None,
        *,
        last: bool = False,
    ) -> tuple[str, str]:
        """Add the product `path` to the residual stream and apply the norm that follows."""
        wide = self._weights.widen(path, product)
        bias = self._weights.fused_bias(path, self._checkpoint.weight(f"{path}.bias"))
        return self._skip_norm(norm, wide, residual, bias, output, keep_sum=not last)

    # packed -- [batch, sequence, 3 * width] --+
    # past ------------------------------------+-- GroupQueryAttention -- [batch * sequence, width]
    # seqlens_k, total_sequence_length --------+          \__ present (the same buffer as past)
    def _attend(self, layer: int, packed: str, width: int) -> str:
        path, heads = f"h.{layer}.attn", self._config.layer_heads[layer]
        folded = self._graph.node("Reshape", f"{path}.packed", [packed, self._packed_shapes[heads]])
        if self._config.bidirectional:
            context = self._attend_to_all(layer, path, folded)
        else:
            context = self._attend_to_past(layer, path, folded)
        return self._graph.node("Reshape", f"{path}.flat", [context, self._graph.integers(-1, width)])

    def _attend_to_past(self, layer: int, path: str, folded: str) -> str:
        inputs = [folded, "", "", "", "", self._attention.seqlens_k, self._attention.total_sequence_length]
        outputs = [f"{path}.out", f"{path}.key", f"{path}.value"]
        if self._attention.cached:
            inputs[3:5] = [LmGraph.past_key(layer), LmGraph.past_value(layer)]
            outputs[1:] = [LmGraph.present_key(layer), LmGraph.present_value(layer)]
        heads = self._config.layer_heads[layer]
        return self._graph.microsoft(
            "GroupQueryAttention",
            path,
            inputs,
            outputs=outputs,
            num_heads=heads,
            kv_num_heads=heads,
            scale=self._config.attention_scale(layer),
        )

    # folded -- query, key, value --+
    # lengths ----------------------+-- MultiHeadAttention, in float32, the only type of its CPU kernel
    def _attend_to_all(self, layer: int, path: str, folded: str) -> str:
        wide = self._weights.widen(f"{path}.packed", folded)
        parts = [f"{path}.{part}" for part in ("query", "key", "value")]
        self._graph.node("Split", f"{path}.split", [wide], outputs=parts, axis=2, num_outputs=3)
        context = self._graph.microsoft(
            "MultiHeadAttention",
            path,
            [*parts, "", self._attention.lengths],
            num_heads=self._config.layer_heads[layer],
            scale=self._config.attention_scale(layer),
        )
        return self._weights.narrow(path, context)

    def _linear(self, path: str, x: str, lowest: float | None = None) -> str:
        """A projection without its bias, which the next operator adds."""
        return self._weights.linear(path, x, self._checkpoint.weight(f"{path}.weight"), lowest=lowest)

    def _attention_weights(self, layer: int) -> tuple[Floats, Floats, Floats]:
        """c_attn's weight and bias and c_proj's weight, each head padded with zeros to the kernel's step."""
        path, heads, size = f"h.{layer}.attn", self._config.layer_heads[layer], self._config.head_size
        weight = self._checkpoint.weight(f"{path}.c_attn.weight")
        bias = self._checkpoint.weight(f"{path}.c_attn.bias")
        out = self._checkpoint.weight(f"{path}.c_proj.weight")
        extra = cache_head_size(size) - size
        if extra:
            hidden = self._config.hidden_size
            split = weight.reshape(hidden, 3 * heads, size)  # [in, q|k|v and head, head_size]
            weight = np.pad(split, ((0, 0), (0, 0), (0, extra))).reshape(hidden, -1)
            bias = np.pad(bias.reshape(3 * heads, size), ((0, 0), (0, extra))).reshape(-1)
            out = np.pad(out.reshape(heads, size, hidden), ((0, 0), (0, extra), (0, 0))).reshape(-1, hidden)
        return weight, bias, out

    # x + skip + bias --- LayerNormalization --- normed
    #        \___________________________________ sum
    def _skip_norm(
        self,
        path: str,
        x: str,
        skip: str,
        bias: str | None,
        output: str | None = None,
        *,
        keep_sum: bool = True,
    ) -> tuple[str, str]:
        inputs = [x, skip, self._parameter(f"{path}.weight"), self._parameter(f"{path}.bias")]
        if bias is not None:
            inputs.append(bias)
        outputs = [output or f"{path}.out"]
        if keep_sum:
            outputs += ["", "", f"{path}.sum"]
        epsilon = self._config.layer_norm_epsilon
        normed = self._graph.microsoft(
            "SkipLayerNormalization", path, inputs, outputs=outputs, epsilon=epsilon
        )
        return normed, f"{path}.sum"

    def _activate(self, path: str, x: str) -> str:
        """The bias of c_fc, then the activation; one kernel where onnxruntime has one."""
        bias = self._weights.narrow_bias(f"{path}.c_fc", self._checkpoint.weight(f"{path}.c_fc.bias"))
        name = f"{path}.act"
        if self._config.activation in (Activation.GELU_NEW, Activation.GELU_TANH):
            return self._graph.microsoft("FastGelu", name, [x, bias])
        if self._config.activation is Activation.GELU:
            return self._graph.microsoft("BiasGelu", name, [x, bias])
        return self._graph.node("Relu", name, [self._graph.node("Add", f"{path}.c_fc.add", [x, bias])])

    def _parameter(self, name: str) -> str:
        return self._graph.weight(name, self._checkpoint.weight(name))
