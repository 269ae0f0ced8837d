"""The CUDA engine on a GPU: whether it is right, how quick it is, and why."""
