"""Operators of our own for ONNX Runtime on CPUs, and the graphs that use them."""

from kernels.library import missing
from kernels.session import element_type, open_graph

__all__ = ["element_type", "missing", "open_graph"]
