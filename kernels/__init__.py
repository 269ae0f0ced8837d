"""Operators of our own for ONNX Runtime on CPUs, and the graphs that use them."""
