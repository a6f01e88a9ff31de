"""The embedded default model against transformers, in float32. Needs `sgl models pull smollm2-135m`."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from sgl.backend.runtime.model.llama.llama import Llama
from sgl.backend.runtime.model.load.loader import load_checkpoint
from sgl.backend.runtime.model.load.store import DEFAULT_MODEL, cache_folder, is_pulled, stored_path
from sgl.backend.runtime.step.packed import Batch, SpanLayout

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(
        not is_pulled(DEFAULT_MODEL, cache_folder()), reason=f"run `sgl models pull {DEFAULT_MODEL}` first"
    ),
]

CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
)
PROMPTS = {
    "chat": CHAT,
    "code": "def fibonacci(n):\n    if n < 2:\n        return n\n    return fib",
    "digits": "The first 25 digits of pi are 3.14159 26535 89793 23846 2643",
    "unicode": "Le café à Zürich coûte 4,50 €. 日本語 🙂 —",
    "one token": "A",
    "long": "Once upon a time there was a small language model that read the same sentence again. " * 12,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(None, "auto", cache_folder())


@pytest.fixture(scope="module")
def model(checkpoint) -> Llama:
    model = Llama(checkpoint)
    model.allocate(1024)
    return model


@pytest.fixture(scope="module")
def reference():
    """transformers' own model over its own reading of the same file (`from_pretrained` would want accelerate)."""
    import gguf
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    path = str(stored_path(DEFAULT_MODEL, cache_folder()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFReader", cache(gguf.GGUFReader))  # it takes seconds, and is wanted twice
        config = LlamaConfig(**load_gguf_checkpoint(path)["config"], attn_implementation="eager")
        model = LlamaForCausalLM(config).eval()
        tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected
    model.tie_weights()
    return model


def forward(model: Llama, tokens, start: int = 0) -> np.ndarray:
    n, context = len(tokens), ((1, start),) if start else ()
    rows = np.arange(n)
    spans = [SpanLayout(0, n, context, start)]
    return model.forward(Batch(np.array(tokens), start + rows, 1 + start + rows, spans, rows))


@pytest.mark.parametrize("name", PROMPTS)
def test_logits_equal_transformers(name, checkpoint, model, reference):
    tokens = checkpoint.tokenizer.encode(PROMPTS[name], add_special_tokens=False).ids
    with torch.no_grad():
        expected = reference(torch.tensor([tokens])).logits[0].numpy()
    got = forward(model, tokens)
    np.testing.assert_allclose(got, expected, atol=1e-3, rtol=0)
    assert np.median(np.abs(got - expected).max(axis=1)) < 2e-4


def test_greedy_answer_token_by_token(checkpoint, model):
    tokens = checkpoint.tokenizer.encode(CHAT, add_special_tokens=False).ids
    logits, answer, length = forward(model, tokens), [], len(tokens)
    while not answer or answer[-1] not in checkpoint.eos_ids:
        answer.append(int(logits[-1].argmax()))
        assert len(answer) < 20
        logits, length = forward(model, answer[-1:], length), length + 1
    text = checkpoint.tokenizer.decode(answer, skip_special_tokens=False)
    assert text == "The capital of France is Paris.<|im_end|>"


def test_text_round_trips(checkpoint):
    for text in PROMPTS.values():
        ids = checkpoint.tokenizer.encode(text, add_special_tokens=False).ids
        assert checkpoint.tokenizer.decode(ids, skip_special_tokens=False) == text


def test_digits_are_tokens_of_their_own(checkpoint):
    """The file's `tokenizer.ggml.pre` says so; transformers' conversion of GGUF tokenizers overlooks it."""
    assert checkpoint.tokenizer.encode("\n\n 1945 a12").tokens == ["ĊĊĠ", "1", "9", "4", "5", "Ġa", "1", "2"]


def test_what_the_file_says(checkpoint):
    word = checkpoint.tokenizer.token_to_id
    assert checkpoint.eos_ids == (word("<|im_end|>"), word("<|endoftext|>"))
    assert checkpoint.bos_id == word("<|im_start|>") and not checkpoint.add_bos
    assert checkpoint.chat_template.startswith("{% for message in messages %}")
    assert checkpoint.config.tie_word_embeddings and checkpoint.config.context_length == 8192
