"""The engine as a Triton backend: the only place that knows Triton's Python API.

Names of `triton_python_backend_utils` (Tensor, InferenceResponse, ...) exist only after Triton imported the
backend, so they are looked up when they are used: always `pb_utils.X`, never `from ... import X`.
"""

from runtime.triton.backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
