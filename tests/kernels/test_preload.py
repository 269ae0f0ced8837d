"""A process is killed while it holds a mutex in shared memory: what the one that shares it gets."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from kernels.library import PRELOAD

ROOT = PRELOAD.parents[1]

# A child locks the mutex and dies. Its parent prints what the call returns, and what a second lock returns.
PROGRAM = """
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None)
memory = mmap.mmap(-1, 4096)
mutex = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
condition = ctypes.c_void_p(mutex.value + 1024)
for address, name, options in (mutex, "mutex", ("pshared", "robust")), (condition, "cond", ("pshared",)):
    attribute = ctypes.create_string_buffer(64)
    getattr(libc, f"pthread_{name}attr_init")(attribute)
    for option in options:
        getattr(libc, f"pthread_{name}attr_set{option}")(attribute, 1)
    getattr(libc, f"pthread_{name}_init")(address, attribute)
libc.pthread_mutex_lock(mutex)
if not os.fork():
    libc.pthread_mutex_lock(mutex)
    libc.pthread_cond_signal(condition)
    os.kill(os.getpid(), 9)
if sys.argv[1] == "pthread_cond_wait":
    got = libc.pthread_cond_wait(condition, mutex)
else:
    libc.pthread_mutex_unlock(mutex)
    os.wait()
    got = getattr(libc, sys.argv[1])(mutex, (ctypes.c_long * 2)(2**40, 0))
libc.pthread_mutex_unlock(mutex)
print(got, libc.pthread_mutex_lock(mutex))
"""


@pytest.mark.parametrize("function", ["pthread_mutex_lock", "pthread_mutex_timedlock", "pthread_cond_wait"])
def test_a_mutex_outlives_its_owner(function: str) -> None:
    if not PRELOAD.is_file():
        pytest.skip(f"{PRELOAD.name} was not built")

    def found(**environment: str) -> list[int]:
        command = [sys.executable, "-c", PROGRAM, function]
        environment = {**os.environ, **environment}
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=60)
        return [int(word) for word in ended.stdout.split()]

    assert found(LD_PRELOAD="") == [errno.EOWNERDEAD, errno.ENOTRECOVERABLE]
    assert found(LD_PRELOAD=f"kernels/{PRELOAD.name}") == [0, 0]
