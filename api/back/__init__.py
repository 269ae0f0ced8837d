"""Back layer: Model Store and Cluster Manager. Knows Triton, not HTTP."""
