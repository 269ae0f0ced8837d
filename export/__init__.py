"""Checkpoint to artifact: read safetensors, build the ONNX graph, quantize, verify, write. Needs no torch."""
