"""Hand-built ONNX graphs of the GPT-2 family; `build.write_graph` is the way in."""
