"""Which operators ONNX Runtime's CUDA provider has, as far as our graphs use them."""

from __future__ import annotations

import onnx

# Operators with a CUDA kernel, and the versions of the operator that it is for: onnxruntime's
# docs/OperatorKernels.md at 001d12d2623f. "13+" stands there for a kernel that is for 13 alone.
CUDA_KERNELS = {
    "Add": (14, 14),
    "And": (7, 7),
    "Cast": (21, 22),
    "Concat": (13, 13),  # of shapes, which stay on the host
    "CumSum": (14, 14),
    "Div": (14, 14),
    "Exp": (13, 13),
    "Gather": (13, 13),
    "Gemm": (13, 13),
    "GatherElements": (13, 13),
    "GreaterOrEqual": (16, 16),
    "Identity": (13, 19),
    "LessOrEqual": (16, 16),
    "Log": (13, 13),
    "MatMul": (13, 13),
    "Max": (13, 13),
    "Min": (13, 13),
    "Mul": (14, 14),
    "Neg": (13, 13),
    "ReduceSum": (13, 13),
    "Reshape": (21, 22),
    "Shape": (21, 22),
    "Sub": (14, 14),
    "TopK": (11, 11),
    "Where": (16, 16),
}
# Of com.microsoft, in float16 (norms in float32): the same page.
CONTRIBUTED = {"FastGelu", "BiasGelu", "GroupQueryAttention", "SkipLayerNormalization"}


def without_cuda_kernel(model: onnx.ModelProto) -> set[str]:
    """The operators of a graph that would run on the host, and keep it from being captured."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    lacking = set()
    for node in model.graph.node:
        if node.domain:
            has = node.op_type in CONTRIBUTED
        else:
            first, last = CUDA_KERNELS.get(node.op_type, (0, -1))
            has = first <= onnx.defs.get_schema(node.op_type, opsets[""]).since_version <= last
        if not has:
            lacking.add(node.op_type)
    return lacking
