"""Front layer: receives, parses and validates requests, and shapes answers. Knows HTTP, not Triton."""
