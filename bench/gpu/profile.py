"""Which kernels a replayed decode step spends its time in, as torch's profiler sees them."""

from __future__ import annotations

from collections.abc import Iterator

from bench.gpu.batches import GREEDY, decode
from bench.gpu.runner import Line
from bench.gpu.timings import LENGTH, Timings
from perf.errors import PerfError

STEPS = 20
LISTED = 20  # kernels
NAME = 80  # characters


def profile(timings: Timings, rows: int) -> Iterator[Line]:
    """`kernels` are [name, how often in a step, microseconds in a step], the most expensive first."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    if not torch.cuda.is_available():
        raise PerfError("torch sees no GPU, or was built without CUDA")
    batch = decode(*[GREEDY] * rows, length=LENGTH)
    timings.session.decode(batch)
    with profile(activities=[ProfilerActivity.CUDA]) as watched:
        for _ in range(STEPS):
            timings.session.decode(batch)
    found = [
        [event.key[:NAME], event.count / STEPS, round(event.device_time_total / STEPS, 2)]
        for event in watched.key_averages()
        if event.device_time_total
    ]
    found.sort(key=lambda kernel: -kernel[2])
    yield {
        "rows": rows,
        "nodes": sum(kernel[1] for kernel in found),
        "micros_of_kernels": round(sum(kernel[2] for kernel in found), 1),
        "kernels": found[:LISTED],
    }
