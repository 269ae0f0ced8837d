"""Hand-built ONNX graphs of the GPT-2 family; start at `build.write_graph`."""
