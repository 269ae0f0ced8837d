"""The CUDA engine on a GPU: checks, and speed beside transformers."""
