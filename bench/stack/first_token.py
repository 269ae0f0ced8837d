"""A fresh process that loads an artifact and generates one token; `bench.stack.start` runs it.

    python -m bench.stack.first_token FOLDER

It prints two times of `time.perf_counter`, which all processes of a Linux machine have in common: when the
engine was loaded, and when the token was there. It is a module apart because its imports are measured.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from queue import SimpleQueue

from runtime.contract import Fault
from runtime.load import load_engine
from runtime.messages import Answer
from runtime.request import Request
from runtime.sampling import SamplingParameters


class First:
    """Keeps the first answer."""

    def __init__(self) -> None:
        self.came: SimpleQueue[Answer | Fault] = SimpleQueue()

    def send(self, answer: Answer, *, final: bool) -> None:
        self.came.put(answer)

    def fail(self, fault: Fault) -> None:
        self.came.put(fault)


def main() -> None:
    engine = load_engine(Path(sys.argv[1]))
    loaded, sink = time.perf_counter(), First()
    parameters = SamplingParameters(max_tokens=1, temperature=0, ignore_eos=True)
    engine.submit(Request("first", "Once upon a time", parameters=parameters), sink)
    if isinstance(fault := sink.came.get(), Fault):
        sys.exit(fault.message)
    print(loaded, time.perf_counter())
    engine.close()


if __name__ == "__main__":
    main()
