"""From the graph of an artifact to the one that runs here: whole patterns become one operator each.

An artifact's graph is written in operators that every ONNX Runtime has. Unless LMAAS_KERNELS is off,
these patterns are replaced when the graph is opened; what does not match stays as it is.

    the products of `kernels.products`                 -> Linear, BlockLinear
      its bias, FastGelu, or the residual's sum          -> inside of it
      the norm before it                                 -> inside of it
    GroupQueryAttention                                -> Attention, over keys and values of eight bits

Beside the logits of a language model stand two outputs more, `ARGMAX` and `LOG_SUM`: a greedy choice and its
probability need not look at a vocabulary of floats again. With one input more, `ROW_TOKENS`, rows of one run
can have different numbers of tokens, without padding.
"""

from __future__ import annotations

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from kernels.library import SCALE_BYTES
from kernels.products import DOMAIN, Graph, Product, find_products, linear_node

ARGMAX, LOG_SUM = "argmax", "log_sum"  # [rows] int64: the largest logit's place; [rows] float32
# [batch] int32: new tokens of each row, 0 or more; input_ids is [1, their sum]. Or [0]: all have as many.
ROW_TOKENS = "row_tokens"
MOST_HEAD_SIZE = 256


def fuse(model: onnx.ModelProto, *, four_bits: bool = True) -> bool:
    """Replace in place what matches, weights of four bits only where `four_bits`; whether anything did."""
    graph = Graph(model.graph)
    products = {product.output: product for product in find_products(graph, four_bits)}
    if not products:
        return False
    for product in list(products.values()):
        _take_bias(graph, product, products)
    _take_sums(graph, products)
    for product in products.values():
        graph.added.append(linear_node(product))
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            _attention(graph, node)
    _choice(graph, products)
    _assemble(graph)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return True


def take_row_tokens(model: onnx.ModelProto) -> None:
    """Add the input `ROW_TOKENS` to a graph whose attentions over a cache are all ours."""
    ours = [node for node in model.graph.node if node.op_type == "Attention" and len(node.input) > 3]
    if ours and not any(node.op_type == "GroupQueryAttention" for node in model.graph.node):
        for node in ours:
            node.input.append(ROW_TOKENS)
        model.graph.input.append(helper.make_tensor_value_info(ROW_TOKENS, TensorProto.INT32, [ROW_TOKENS]))


def _take_bias(graph: Graph, product: Product, products: dict[str, Product]) -> None:
    """The Add or FastGelu that is the only one to read the product."""
    user = graph.only_user(product.output)
    if user is None or user.op_type not in ("Add", "FastGelu") or user.input[0] != product.output:
        return
    if not graph.has_vector(user.input[1], product.width):
        return
    del products[product.output]
    product.bias, product.gelu, product.output = user.input[1], user.op_type == "FastGelu", user.output[0]
    products[product.output] = product


# product --+
# residual -+-- SkipLayerNormalization --- normed --- product
#                          \______________ sum
def _take_sums(graph: Graph, products: dict[str, Product]) -> None:
    """The sum goes into the product before it, the norm into each product after it."""
    for node in list(graph.proto.node):
        if node.op_type != "SkipLayerNormalization":
            continue
        x, skip, gamma, beta, *bias = node.input
        epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), None)
        if epsilon is None or not graph.has_vector(gamma) or not graph.has_vector(beta):
            continue
        normed = node.output[0]
        total = node.output[3] if len(node.output) > 3 else f"{node.name}.sum"
        before = products.get(x)
        if before is not None and (before.bias or before.gelu or graph.only_user(x) is None):
            continue
        if before is not None and all(graph.has_vector(name, before.width) for name in bias):
            del products[x]
            before.bias, before.residual, before.output = (bias or [""])[0], skip, total
            products[total] = before
        elif not bias and x in graph.makers and graph.makers[x].op_type in ("Gather", "DequantizeLinear"):
            graph.added.append(helper.make_node("Add", [x, skip], [total], name=f"{node.name}.add"))
        else:
            continue
        after = [product for product in products.values() if product.x == normed and product.lowest is None]
        others = graph.is_output(normed) or len(_readers(graph, normed)) > len(after)
        if others:
            graph.added.append(_norm(node, total, normed, epsilon))
            continue
        for product in after:
            product.x, product.gamma, product.beta, product.epsilon = total, gamma, beta, epsilon


def _readers(graph: Graph, tensor: str) -> list[NodeProto]:
    """Who reads the tensor; a product's rounding and largest value count as one."""
    return [node for node in graph.users.get(tensor, []) if node.op_type not in ("Abs", "ReduceMax")]


def _norm(node: NodeProto, x: str, normed: str, epsilon: float) -> NodeProto:
    inputs = [x, node.input[2], node.input[3]]
    return helper.make_node("LayerNormalization", inputs, [normed], name=node.name, axis=-1, epsilon=epsilon)


# packed -- Reshape -- GroupQueryAttention -- Reshape -- [tokens, width]
def _attention(graph: Graph, node: NodeProto) -> None:
    folded, flat = graph.maker(node.input[0], "Reshape"), graph.only_user(node.output[0])
    if folded is None or flat is None or flat.op_type != "Reshape" or flat.input[1] not in graph.weights:
        return
    numbers = {item.name: item for item in node.attribute}
    if set(numbers) != {"num_heads", "kv_num_heads", "scale"}:
        return
    heads = numbers["num_heads"].i
    size = int(numpy_helper.to_array(graph.weights[flat.input[1]])[-1]) // heads
    if heads != numbers["kv_num_heads"].i or size % 4 or not 0 < size <= MOST_HEAD_SIZE:
        return
    past = [name for name in node.input[3:5] if name]
    values = [value for value in graph.proto.input if value.name in past]
    values += [value for value in graph.proto.output if value.name in node.output[1:]]
    if any(value.type.tensor_type.elem_type != TensorProto.FLOAT for value in values):
        return
    for value in values:
        kind = value.type.tensor_type
        kind.elem_type = TensorProto.UINT8
        kind.shape.dim[3].dim_value += SCALE_BYTES
    graph.added.append(
        helper.make_node(
            "Attention",
            [folded.input[0], node.input[5], node.input[6], *past],
            [flat.output[0], *(node.output[1:] if past else [])],
            name=node.name,
            domain=DOMAIN,
            num_heads=heads,
            scale=numbers["scale"].f,
        )
    )


def _choice(graph: Graph, products: dict[str, Product]) -> None:
    """Over the output that is a product of the vocabulary: only a language model has one."""
    logits = [value for value in graph.proto.output if value.name in products]
    for value in logits:
        graph.added.append(
            helper.make_node("ArgMaxLogSumExp", [value.name], [ARGMAX, LOG_SUM], name=ARGMAX, domain=DOMAIN)
        )
        rows = [value.type.tensor_type.shape.dim[0].dim_param]
        graph.proto.output.append(helper.make_tensor_value_info(ARGMAX, TensorProto.INT64, rows))
        graph.proto.output.append(helper.make_tensor_value_info(LOG_SUM, TensorProto.FLOAT, rows))


def _assemble(graph: Graph) -> None:
    """Put the new nodes in place of the old ones, drop what nobody reads any more, and sort."""
    makers = {name: node for node in graph.proto.node for name in node.output if name}
    makers.update({name: node for node in graph.added for name in node.output if name})
    ordered: list[NodeProto] = []
    placed: set[int] = set()
    pending = [(makers[value.name], False) for value in reversed(graph.proto.output)]
    while pending:
        node, ready = pending.pop()
        if ready:
            ordered.append(node)
        elif id(node) not in placed:
            placed.add(id(node))
            pending.append((node, True))
            pending.extend((makers[name], False) for name in node.input if name in makers)
    read = {name for node in ordered for name in node.input}
    kept = [tensor for tensor in graph.proto.initializer if tensor.name in read]
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in ordered]
    weights = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.proto.node[:], graph.proto.initializer[:]
    graph.proto.node.extend(nodes)
    graph.proto.initializer.extend(weights)
