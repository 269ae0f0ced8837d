"""Operators of our own for ONNX Runtime on CPUs, and the graphs that use them."""

import os

# Read when onnxruntime is imported. Without it, that keeps a device's id and queued events in the home folder
# and looks for its vendor's server. Each package that imports onnxruntime imports this one before.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
