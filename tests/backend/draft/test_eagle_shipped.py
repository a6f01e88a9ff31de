"""The head that the package has for its default model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import sgl
from sgl.backend.runtime.draft.eagle.conversations import Dialogue
from sgl.backend.runtime.draft.eagle.evaluate import acceptance
from sgl.backend.runtime.draft.eagle.files import check_head, load_head
from sgl.backend.runtime.draft.eagle.target import Target
from sgl.backend.runtime.model.load.loader import load_checkpoint
from sgl.backend.runtime.model.load.store import cache_folder

FOLDER = Path(sgl.__file__).parent / "backend/runtime/draft/eagle/smollm2-135m"


def test_it_loads_and_is_small():
    head = load_head(FOLDER)
    assert (head.config.shape.vocab_size, head.config.draft_vocab_size) == (49_152, 12_288)
    assert head.config.features_of(30) == (2, 15, 27)
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 15_000_000
    assert all(bool(torch.isfinite(weight).all()) for weight in head.parameters())
    assert bool(head.t2d[2])  # <|im_end|>, which ends every answer


@pytest.mark.model
def test_it_guesses_what_its_model_writes():
    target = Target(load_checkpoint(None, "auto", cache_folder()), "cpu", torch.float32)
    head = load_head(FOLDER)
    check_head(head, target.config, target.embed_VE, head_name="the shipped head", name="the default model")
    with sgl.Runtime(device="cpu", max_total_tokens=2048) as runtime:
        question = "A farmer has 12 hens. Each hen lays 3 eggs a day. How many eggs does she have after 5 days?"
        asked = runtime.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True
        )
        result = runtime.generate(input_ids=list(asked), sampling_params={"temperature": 0, "max_new_tokens": 64})
    tokens = np.array([*asked, *result["output_ids"]])
    measured = acceptance(head, target, [Dialogue(tokens, ((len(asked), len(tokens)),))])
    assert measured.a_round[4] > 2.2 and measured.a_round[2] > 1.8
