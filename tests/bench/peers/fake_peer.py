"""A worker without a model: counts up from the last token, prints where it should not, forgets on demand."""

from __future__ import annotations

from bench.peers.protocol import Order, Prompts, Run, Stopwatch, serve


class Fake:
    def __init__(self, order: Order) -> None:
        print("a library greets")
        if order.precision == "broken":
            raise RuntimeError("no such weights")
        self._missing = 1 if order.precision == "lossy" else 0
        self.versions = {"fake": "1"}
        self.settings = f"{order.threads} threads"

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        print("a library talks")
        watch = Stopwatch(len(prompts))
        for index, prompt in enumerate(prompts):
            for step in range(new_tokens - self._missing):
                watch.add(index, [prompt[-1] + 1 + step])
        return watch.stop()


if __name__ == "__main__":
    serve(Fake)
