"""The ONNX Runtime engine: scheduler, KV cache, session, sampling, tokenizer. Knows no HTTP and no torch."""

import kernels as kernels  # switches ONNX Runtime's telemetry off
