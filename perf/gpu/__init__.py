"""On a machine with a GPU: is the engine right there, and how fast, beside transformers on the same GPU.

    lmaas perf gpu

One command: it writes a checkpoint of GPT-2's shape with random weights, exports it, checks the CUDA engine
against the fp32 graph on the CPU, and then has the engine, transformers and transformers compiled answer the
same prompts in turn. Needs `onnxruntime-gpu` (the extra `gpu`) and a torch that sees the GPU.
"""
