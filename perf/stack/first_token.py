"""A fresh process: load an artifact, generate one token, tell when; `perf.stack.start` runs it.

    python -m perf.stack.first_token FOLDER

Prints two times of `time.perf_counter`, which all processes of a machine have in common on Linux: when the
engine was loaded, and when the token was there.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from queue import SimpleQueue

from runtime.answers import Answer
from runtime.contract import Fault
from runtime.engine import Engine
from runtime.request import Request
from runtime.sampling import SamplingParameters


class First:
    """Takes what comes first."""

    def __init__(self) -> None:
        self.came: SimpleQueue[Answer | Fault] = SimpleQueue()

    def send(self, answer: Answer, *, final: bool) -> None:
        self.came.put(answer)

    def fail(self, fault: Fault) -> None:
        self.came.put(fault)


def main() -> None:
    engine = Engine.load(Path(sys.argv[1]))
    loaded, sink = time.perf_counter(), First()
    parameters = SamplingParameters(max_tokens=1, temperature=0, ignore_eos=True)
    engine.submit(Request("first", "Once upon a time", parameters=parameters), sink)
    if isinstance(fault := sink.came.get(), Fault):
        sys.exit(fault.message)
    print(loaded, time.perf_counter())
    engine.close()


if __name__ == "__main__":
    main()
