"""The products of a graph that our operators can compute: how they are recognised, and the node of each.

rounding by row, MatMulIntegerToFloat, scaling     -> Linear: weights of eight bits, a scale for each column
MatMulNBits with scales = factors * steps          -> BlockLinear: of four bits, a factor for each block of 32
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

DOMAIN = "lmaas"
_ZERO_POINT = 128
_EPSILON = 1e-5
# Of MatMulNBits: weights that share a scale, and the most of a column, whose sums then fit in 32 bits.
_BLOCK, _MOST_BLOCKS = 32, 256
# The smallest value of each activation function.
_LOWEST = {"FastGelu": -0.171, "BiasGelu": -0.171, "Relu": 0.0}


@dataclass(slots=True)
class Product:
    """`x @ weight` in eight bits or in four, and what could be taken into it."""

    node: NodeProto  # MatMulIntegerToFloat or MatMulNBits
    x: str
    output: str
    weight: str
    scales: str
    width: int  # of a row of the product
    transposed: bool
    lowest: float | None
    factors: str = ""  # of blocks of weights in four bits
    width_in: int = 0  # of a row of `x`, for weights in four bits
    bias: str = ""
    gamma: str = ""
    beta: str = ""
    residual: str = ""
    gelu: bool = False
    epsilon: float = _EPSILON


@dataclass(slots=True)
class Graph:
    proto: onnx.GraphProto
    makers: dict[str, NodeProto] = field(default_factory=dict)
    users: dict[str, list[NodeProto]] = field(default_factory=dict)
    weights: dict[str, TensorProto] = field(default_factory=dict)
    added: list[NodeProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.weights = {tensor.name: tensor for tensor in self.proto.initializer}
        for node in self.proto.node:
            for name in node.output:
                self.makers[name] = node
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def maker(self, tensor: str, operator: str) -> NodeProto | None:
        node = self.makers.get(tensor)
        return node if node is not None and node.op_type == operator else None

    def only_user(self, tensor: str) -> NodeProto | None:
        users = self.users.get(tensor, [])
        return users[0] if len(users) == 1 and not self.is_output(tensor) else None

    def is_output(self, tensor: str) -> bool:
        return any(value.name == tensor for value in self.proto.output)

    def scalar(self, name: str) -> float | None:
        """A small constant; None for anything else."""
        tensor = self.weights.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL or int(np.prod(tensor.dims)) != 1:
            return None
        return float(numpy_helper.to_array(tensor).reshape(()))

    def has_tensor(self, name: str, element: int, shape: list[int]) -> bool:
        """Whether `name` is a constant of that type and shape."""
        tensor = self.weights.get(name)
        return tensor is not None and tensor.data_type == element and list(tensor.dims) == shape

    def has_vector(self, name: str, width: int | None = None) -> bool:
        """Whether `name` is a constant row of floats, of `width` where one is given."""
        tensor = self.weights.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 1:
            return False
        return width is None or tensor.dims[0] == width


def find_products(graph: Graph, four_bits: bool) -> list[Product]:
    """Those of eight bits, and of four where `four_bits`."""
    matches = {"MatMulIntegerToFloat": _of_eight_bits}
    if four_bits:
        matches["MatMulNBits"] = _of_four_bits
    found = [matches[node.op_type](graph, node) for node in graph.proto.node if node.op_type in matches]
    return [product for product in found if product is not None]


# x --+-- Abs -- ReduceMax -- Mul 1/127 --+---------------------------+
#     +-----------------------------------+-- QuantizeLinear -- node -- Mul -- out
def _of_eight_bits(graph: Graph, node: NodeProto) -> Product | None:
    rounded, data, one, scales, *zero = node.input
    quantize, scaled = graph.maker(rounded, "QuantizeLinear"), graph.only_user(node.output[0])
    if quantize is None or scaled is None or scaled.op_type != "Mul" or graph.scalar(one) != 1.0:
        return None
    x, row_scales = quantize.input[:2]
    step = graph.maker(row_scales, "Mul")
    if step is None or row_scales not in scaled.input:
        return None
    largest = graph.maker(step.input[0], "ReduceMax")
    if largest is None:
        return None
    steps = 255 if not zero else 127
    if graph.scalar(step.input[1]) != float(np.float32(1 / steps)):
        return None
    lowest = None
    if zero:
        magnitudes = graph.maker(largest.input[0], "Abs")
        if magnitudes is None or magnitudes.input[0] != x or graph.scalar(zero[0]) != _ZERO_POINT:
            return None
    else:
        shifted = graph.maker(x, "Sub")
        if shifted is None or largest.input[0] != x:
            return None
        x, lowest = shifted.input[0], graph.scalar(shifted.input[1])
        if lowest is None:
            return None
    turned = graph.maker(data, "Transpose")
    weight = turned.input[0] if turned is not None else data
    tensor = graph.weights.get(weight)
    if tensor is None or tensor.data_type != TensorProto.INT8 or len(tensor.dims) != 2:
        return None
    width = tensor.dims[0 if turned is not None else 1]
    if not graph.has_vector(scales, width):
        return None
    return Product(node, x, scaled.output[0], weight, scales, width, turned is not None, lowest)


# factors -- Cast -- Mul steps --+
# weight ------------------------+-- node -- out
# x -----------------------------+
def _of_four_bits(graph: Graph, node: NodeProto) -> Product | None:
    numbers = {item.name: item.i for item in node.attribute}
    if len(node.input) != 3 or (numbers.get("bits"), numbers.get("block_size")) != (4, _BLOCK):
        return None
    x, weight, scales = node.input
    scaled = graph.maker(scales, "Mul")
    cast = None if scaled is None else graph.maker(scaled.input[0], "Cast")
    if scaled is None or cast is None:
        return None
    factors, steps = cast.input[0], scaled.input[1]
    width_in, width = numbers["K"], numbers["N"]
    blocks = -(-width_in // _BLOCK)
    if not 0 < blocks <= _MOST_BLOCKS:
        return None
    expected = {
        weight: (TensorProto.UINT8, [width, blocks, _BLOCK // 2]),
        factors: (TensorProto.INT8, [width, blocks]),
        steps: (TensorProto.FLOAT, [width, 1]),
    }
    if any(not graph.has_tensor(name, *kind) for name, kind in expected.items()):
        return None
    before = graph.makers.get(x)
    lowest = None if before is None else _LOWEST.get(before.op_type)
    return Product(node, x, node.output[0], weight, steps, width, False, lowest, factors, width_in)


def linear_node(product: Product) -> NodeProto:
    inputs = [product.x, product.weight, product.scales, product.bias, product.gamma, product.beta]
    inputs.append(product.residual)
    if product.factors:
        operator, sides = "BlockLinear", {"width": product.width_in}
        inputs.append(product.factors)
    else:
        operator, sides = "Linear", {"transposed": int(product.transposed)}
    return helper.make_node(
        operator,
        inputs,
        [product.output],
        name=product.node.name,
        domain=DOMAIN,
        **sides,
        gelu=int(product.gelu),
        above_lowest=int(product.lowest is not None),
        lowest=product.lowest or 0.0,
        epsilon=product.epsilon,
    )
