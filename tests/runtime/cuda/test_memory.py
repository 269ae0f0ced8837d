"""Memory of a device, with that of the host: what the host writes arrives, and slots are copied."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.gpu.stand import HostStream
from runtime.contract import GRAPH_FILE
from runtime.cuda.accelerator import Accelerator
from runtime.cuda.memory import DeviceArrays, DeviceKvMemory
from runtime.errors import ModelError
from runtime.memory import CacheLayout, HostArrays
from runtime.session import open_session
from tests.runtime.cuda.test_accelerator import needs_none

LAYOUT = CacheLayout(layer_heads=(3, 2), head_size=8, dtype=np.dtype(np.float16))
LAYOUT_VALUES = 2 * (3 + 2) * 3 * 16 * 8  # keys and values, heads, slots, context, head


def test_arrays_of_a_block_do_not_touch() -> None:
    block = DeviceArrays(
        {"ids": (3, np.int64), "lengths": (5, np.int32), "share": (1, np.float64)}, HostStream()
    )
    for number, array in enumerate(block.arrays.values()):
        array[:] = number + 1
    assert block.arrays["ids"].tolist() == [1, 1, 1]
    assert block.arrays["lengths"].tolist() == [2] * 5
    offsets = [block.address(name) - block.address("ids") for name in block.arrays]
    assert offsets == [0, 256, 512]


def test_a_block_is_pushed_and_pulled_whole() -> None:
    block = DeviceArrays({"ids": (3, np.int64), "logits": (2, np.float32)}, HostStream())
    block.arrays["ids"][:] = [7, 8, 9]
    block.arrays["logits"][:] = 0.5
    block.push()
    for array in block.arrays.values():
        array[:] = 0
    block.pull()
    assert block.arrays["ids"].tolist() == [7, 8, 9]
    assert block.arrays["logits"].tolist() == [0.5, 0.5]


def test_on_the_host_a_block_is_where_runs_read() -> None:
    block = HostArrays({"ids": (3, np.int64)})
    assert block.address("ids") == block.arrays["ids"].ctypes.data


def filled_memory() -> DeviceKvMemory:
    random = np.random.default_rng(0)
    return memory_of(random.standard_normal(LAYOUT_VALUES).astype(np.float16))


def memory_of(values: NDArray[np.float16]) -> DeviceKvMemory:
    memory = DeviceKvMemory(LAYOUT, 3, 16, HostStream())
    ctypes.memmove(memory.start, values.ctypes.data, memory.size)
    return memory


def assert_equal(found: list[NDArray[Any]], expected: list[NDArray[Any]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


def test_the_first_rows_of_a_slot_are_copied_and_no_others() -> None:
    memory = filled_memory()
    expected = memory.buffers
    memory.copy_rows(2, 0, 5)
    for buffer in expected:
        buffer[0, :, :5] = buffer[2, :, :5]
    assert_equal(memory.buffers, expected)
    memory.copy_rows(1, 2, 0)
    memory.give_back(1, 0, 16)
    assert_equal(memory.buffers, expected)


def test_a_slot_comes_back_as_it_was_read() -> None:
    memory = filled_memory()
    expected = memory.buffers
    rows = memory.read_rows(1, 5)
    assert_equal([part[:, :5] for part in rows], [buffer[1, :, :5] for buffer in expected])
    memory.copy_rows(0, 1, 16)
    memory.write_rows(1, rows)
    assert_equal(memory.buffers, expected)


def test_addresses_follow_the_layout() -> None:
    values = np.arange(LAYOUT_VALUES, dtype=np.float64).astype(np.float16)
    memory = memory_of(values)
    assert sum(buffer.size for buffer in memory.buffers) == values.size
    for half, slot in ((0, 0), (0, 2), (3, 1)):
        there = (memory.address(half, slot) - memory.start) // 2
        found = memory.buffers[half][slot]
        assert np.array_equal(found.reshape(-1), values[there : there + found.size])


@needs_none
def test_a_model_for_a_gpu_says_which_setting_asks_for_it(lm_artifact: Path) -> None:
    with pytest.raises(ModelError, match=r"engine.json: device: cuda \(LMAAS_DEVICE\), but .*CUDAExecution"):
        open_session(lm_artifact / "fp32" / GRAPH_FILE, 1, Accelerator())
