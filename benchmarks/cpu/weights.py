"""The model's files for peers: as shipped, requantised for llama.cpp, and as a checkpoint of `transformers`.

Knows nothing of what is measured. All are made of the one GGUF file that `make model` fetches, and are kept.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sgl"
MODEL = CACHE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
MADE = Path(__file__).resolve().parents[2] / ".venv-peers" / "weights"


def q4_0(api: Any) -> Path:
    """The file with blocks of Q4_0 and a head of Q8_0, made by llama.cpp itself; `api` is the module `llama_cpp`."""
    file = MADE / "SmolLM2-135M-Instruct.Q4_0.gguf"
    if not file.exists():
        MADE.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(".part")
        params = api.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize, params.pure = 2, True, True  # 2: LLAMA_FTYPE_MOSTLY_Q4_0
        params.output_tensor_type = params.token_embedding_type = 8  # GGML_TYPE_Q8_0
        if code := api.llama_model_quantize(str(MODEL).encode(), str(new).encode(), params):
            raise RuntimeError(f"llama_model_quantize returned {code}")
        new.rename(file)
    return file


def checkpoint() -> Path:
    """A folder with float32 weights and the tokenizer, as `transformers` reads the GGUF file."""
    folder = MADE / "transformers"
    if not (folder / "config.json").exists():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        where = {"pretrained_model_name_or_path": str(MODEL.parent), "gguf_file": MODEL.name}
        AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
        read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        read.config.__dict__.pop("quantization_config", None)
        plain = AutoModelForCausalLM.from_config(
            read.config, dtype=torch.float32
        )  # what was read is marked as quantised
        plain.load_state_dict(read.state_dict())
        plain.save_pretrained(folder)
    return folder
