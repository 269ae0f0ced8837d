"""Checkpoint to artifact: read safetensors, build the ONNX graph, quantize, verify, write. Needs no torch."""

import kernels as kernels  # switches ONNX Runtime's telemetry off
