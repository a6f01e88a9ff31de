"""A head drafts for a runtime on the CPU: the text and its log-probabilities stay, and what the head reads is right.

On a tiny random Llama with a head that is not trained, in floats and in 8 bits; on the default model with its head.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sgl
from sgl.backend.base import GenRequest
from sgl.backend.runtime import invariants
from sgl.backend.runtime.draft.build import SHIPPED_HEAD, head_of
from sgl.backend.runtime.draft.eagle.files import save_head
from sgl.backend.runtime.draft.eagle.initial import initial_head
from sgl.backend.runtime.draft.eagle.target import Target
from sgl.backend.runtime.draft.head_source import HeadCost, HeadSource
from sgl.backend.runtime.draft.proposer import PLACE_KIND, Terms
from sgl.backend.runtime.job.gen import GenJob
from sgl.backend.runtime.model.cpu import native
from sgl.backend.runtime.model.load.loader import load_checkpoint
from sgl.backend.runtime.model.toy import ToyModel
from sgl.backend.runtime.program.branch import Branch
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.errors import ModelLoadError, NotYet, OptionError
from sgl.lang.expr import Sampling

from ..naive import rush
from .guessing import RandomDrafts
from .tiny_llama import save_tiny

WIDE = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
FORMS = [None, "q8"]
QUESTIONS = [
    "A farmer has 12 hens. Each hen lays 3 eggs a day. How many eggs does she have after 5 days?",
    "Tom has 3 boxes with 4 pens in each box. He gives 5 pens away. How many pens does he have left?",
    "Ann reads 12 pages a day. Her book has 180 pages and she has read 60. How many days does she need?",
]


def has_kernels() -> bool:
    try:
        return bool(native.library())
    except native.MissingLibrary:
        return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"), **WIDE)


@pytest.fixture(scope="module")
def target(folder: Path) -> Target:
    return Target(load_checkpoint(folder, "auto", folder), "cpu", torch.float32)


@pytest.fixture(scope="module")
def head_folder(target: Target, tmp_path_factory: Any) -> Path:
    return save_head(initial_head(target, torch.arange(0, 300)), tmp_path_factory.mktemp("head"))


@pytest.fixture(params=FORMS, ids=["floats", "8 bits"])
def form(request: Any) -> str | None:
    if request.param and not has_kernels():
        pytest.skip("the CPU kernels were not built")
    return request.param


def plain(folder: Path, form: str | None, **options: Any) -> Runtime:
    return Runtime(folder, device="cpu", quantization=form, speculative_num_draft_tokens=0, **options)


def drafting(folder: Path | None, head: Path | None, **options: Any) -> Runtime:
    """A runtime that takes all drafts of its head, whatever they cost."""
    runtime = Runtime(
        folder, device="cpu", speculative_algorithm="EAGLE3", speculative_draft_model_path=head, **options
    )
    force(runtime, [source_of(runtime)])
    return runtime


def force(runtime: Runtime, sources: list[Any]) -> None:
    speculation = runtime.engine.speculation
    speculation.proposers = sources
    speculation.trials.drafting = lambda branches: True  # type: ignore[method-assign]
    speculation.cost.share = lambda rows: 0.0  # type: ignore[method-assign]
    speculation.cost.seconds = lambda rows: 1e9  # type: ignore[method-assign]


def source_of(runtime: Runtime) -> HeadSource:
    source = runtime.engine.speculation.proposers[-1]
    assert isinstance(source, HeadSource)
    return source


@sgl.function
def branching(s: Any, i: int, temperature: float) -> None:
    """Gens one after the other, cut at stops, under a constraint, and in forks."""
    s += f"{i}: the beginning, "
    s += sgl.gen("cut", max_tokens=24, temperature=temperature, stop=["e", "a", "\n"], ignore_eos=True)
    s += " and then "
    s += sgl.gen("constrained", regex=r"[ab]{3,12}c", temperature=temperature)
    forks = s.fork(3)
    for k, fork in enumerate(forks):
        fork += f" fork {k} "
        fork += sgl.gen("inner", max_tokens=10, temperature=temperature, ignore_eos=True)
    for k, fork in enumerate(forks):
        s += f"; {k} {len(fork['inner'])}"
    s += sgl.gen(
        "last", max_tokens=16, temperature=temperature, return_logprob=True, top_logprobs_num=2, ignore_eos=True
    )
    s += sgl.select("choice", ["yes", "no", "perhaps"])


def told(runtime: Runtime, batch: int, temperature: float) -> list[Any]:
    states = branching.run_batch(
        [{"i": i, "temperature": temperature} for i in range(batch)], backend=runtime, num_threads=batch, seed=3
    )
    found = []
    for state in states:
        described = state.get_meta_info("last")["output_token_logprobs"]
        found.append((state.text(), state["choice"], [(logprob, token) for logprob, token, *_ in described]))
    return found


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_text_and_its_log_probabilities_stay(
    form: str | None, batch: int, temperature: float, folder: Path, head_folder: Path
) -> None:
    with plain(folder, form, random_seed=1) as one, drafting(folder, head_folder, quantization=form) as other:
        expected, found = told(one, batch, temperature), told(other, batch, temperature)
        counts = other.get_server_info()["speculation"]["eagle3"]
        assert counts["rounds"] > 8 * batch and counts["drafted"] > counts["rounds"]
        other.check()
        invariants.idle_and_whole(other.engine)
    for mine, theirs in zip(found, expected):
        assert mine[:2] == theirs[:2]
        assert [token for _, token in mine[2]] == [token for _, token in theirs[2]]
        if form:  # a row's bits do not depend on the rows beside it
            assert mine[2] == theirs[2]
        else:
            assert [lp for lp, _ in mine[2]] == pytest.approx([lp for lp, _ in theirs[2]], abs=1e-3)


def test_a_tight_pool_with_preemption(form: str | None, folder: Path, head_folder: Path) -> None:
    """Branches lose their KV while the head has theirs, and go on."""

    def texts(runtime: Runtime) -> list[Any]:
        branches = [runtime.open(seed=i) for i in range(3)]
        handles = []
        for i, branch in enumerate(branches):
            branch.append(f"{i} a text of its own")
            for _ in range(2):
                sampling = Sampling(max_tokens=40, temperature=1.0, ignore_eos=True, stop=("q",))
                handles.append(branch.gen(GenRequest(sampling)))
                branch.append(" and on it goes ")
        for handle in handles:
            runtime.wait(handle)
        return [handle.value()[0].token_ids for handle in handles]

    with plain(folder, form) as one, drafting(folder, head_folder, quantization=form, max_total_tokens=160) as other:
        rush(other)
        assert texts(other) == texts(one)
        assert other.get_server_info()["preemptions"]
        other.check()


def test_the_head_reads_the_features_of_the_text(form: str | None, folder: Path, head_folder: Path) -> None:
    """What waits to be read is what the model says of those positions, whatever was drafted, cut and forked before."""
    with plain(folder, form) as one:
        program = branching.run(i=0, temperature=1.0, backend=one, seed=3)
        length = len(one.tokenizer.encode(program.text()))
    with drafting(folder, head_folder, quantization=form) as runtime:
        source = source_of(runtime)
        known: dict[Branch, Any] = {}
        paths: dict[Any, list[int]] = {}
        force(runtime, [RandomDrafts(1, 300, paths, wrong=0.3), source])
        source._worth = lambda *_: (0, -1.0)  # type: ignore[method-assign]
        take = source._take

        def look(span: Any, *rest: Any) -> None:
            take(span, *rest)
            known[span.branch] = source._texts[span.branch]
            paths[span.branch.order] = span.branch.cursor.path_tokens()

        source._take = look  # type: ignore[method-assign]
        for _ in range(2):  # the second time with drafts that are right
            runtime.flush_cache()
            known.clear()
            found = branching.run(i=0, temperature=1.0, backend=runtime, seed=3)
            assert found.text() == program.text()
        counts = runtime.get_server_info()["speculation"]
        assert length > 80 and len(known) == 4 and counts["random"]["rounds"] > 10
    with plain(folder, form) as one:
        model: Any = one.engine.model
        model.capture_layers((2, 2, 1))
        for text in known.values():
            assert len(text.text) > 30 and not text.at
            one.flush_cache()
            one.generate(input_ids=text.text, sampling_params={"max_new_tokens": 1})
            positions = [position for position, _ in text.waiting]
            assert len(positions) > 20 and positions == sorted(set(positions))
            mine, theirs = np.stack([feature for _, feature in text.waiting]), model.features[positions]
            assert len(model.features) == len(text.text)
            assert np.array_equal(mine, theirs) if form else np.allclose(mine, theirs, 1e-3, 1e-3)


def test_features_are_the_residual_stream_after_the_layers(form: str | None, folder: Path, target: Target) -> None:
    tokens = list(range(40, 90))
    with plain(folder, form) as one:
        model: Any = one.engine.model
        model.capture_layers((0, 1, 3))
        one.generate(input_ids=tokens, sampling_params={"max_new_tokens": 1})
        found = torch.from_numpy(model.features)
        embedded = torch.from_numpy(model.embed(np.array(tokens)))
    ones = torch.ones(1, len(tokens), dtype=torch.int64)
    features = target.see(torch.tensor(tokens)[None], ones, ones.bool(), (0, 1, 3)).features[0]
    for mine, theirs in zip(found.chunk(3, -1), features.chunk(3, -1)):
        alike = torch.cosine_similarity(mine, theirs, -1)
        assert float(alike.min()) > (0.98 if form else 0.99999)
    assert torch.equal(embedded, found[:, : embedded.shape[1]])


def test_memory_is_told_and_given_back(folder: Path, head_folder: Path) -> None:
    with drafting(folder, head_folder, quantization=None) as runtime:
        state = branching.run(i=1, temperature=1.0, backend=runtime, seed=1)
        state.text()
        held = runtime.get_server_info()["memory"]["drafts"]
        assert 0 < held["bytes"] <= held["most_bytes"] and held["entries"] > 30
        runtime.flush_cache()
        assert runtime.get_server_info()["memory"]["drafts"]["bytes"] == 0


def test_a_branch_that_has_ended_holds_nothing(folder: Path, head_folder: Path) -> None:
    with drafting(folder, head_folder, quantization=None) as runtime:
        source = source_of(runtime)
        for i in range(5):
            runtime.generate(f"{i} text", {"max_new_tokens": 8, "ignore_eos": True})
        assert len(source._texts) <= 2


def test_a_head_that_raises_is_switched_off(folder: Path, head_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    params = {"max_new_tokens": 30, "temperature": 0, "ignore_eos": True}
    with plain(folder, None) as one, drafting(folder, head_folder, quantization=None) as other:
        expected = one.generate("some text", params)["output_ids"]
        source, calls = source_of(other), 0
        propose = source._drafter.propose

        def fails(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 4:
                raise ValueError("no more ideas")
            return propose(*arguments, **options)

        source._drafter.propose = fails  # type: ignore[method-assign]
        with caplog.at_level(logging.WARNING, logger="sgl"):
            assert other.generate("some text", params)["output_ids"] == expected
        assert "no more ideas" in caplog.text and other.engine.speculation.proposers == [] and calls == 4
        model: Any = other.engine.model
        other.generate("another text", params)
        assert model.features is None, "nothing is copied for a head that is asked no more"


# -- whether a draft is worth its time
def test_the_head_is_asked_only_where_its_time_pays(folder: Path, head_folder: Path) -> None:
    with drafting(folder, head_folder, quantization=None) as runtime:
        source = source_of(runtime)
        branch = runtime.open(seed=1)
        branch.append("text")
        branch.gen(GenRequest(Sampling(max_tokens=60, ignore_eos=True), where="here"))
        while not isinstance(branch.job, GenJob) or branch.job.most() > 50:
            runtime.engine.step()
        for _ in range(200):
            for place in range(4):
                runtime.engine.speculation.sites["here"].learn(PLACE_KIND + place, place < 2)
        source.cost = HeadCost(lambda positions, drafts: None)
        source.cost._first, source.cost._further = 0.004, 0.002
        worth = [source._worth(branch.job, 4, Terms(0.1, pace, {})) for pace in (0.0, 0.003, 0.02, 1.0)]
        assert worth[0] == (0, 0.0) and worth[1] == (0, 0.0)  # nothing is known; a draft takes longer than a token
        assert worth[2][0] == worth[3][0] == 2 and 0 < worth[2][1] < worth[3][1]
        assert source._propose(branch.job, 4, Terms(0.1, 1.0, {branch.job: 5.0})) == ()  # another source is better
        assert source._propose(branch.job, 4, Terms(0.1, 1.0, {branch.job: 0.0}))


# -- what is refused
@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"speculative_num_steps": 3}, OptionError, "say speculative_algorithm='EAGLE3'"),
        ({"speculative_draft_model_path": "x"}, OptionError, "say speculative_algorithm='EAGLE3'"),
        ({"speculative_algorithm": "EAGLE3", "speculative_num_steps": 0}, OptionError, "speculative_num_steps"),
        ({"speculative_algorithm": "EAGLE3", "speculative_num_steps": 16}, OptionError, "at most 15"),
        ({"speculative_algorithm": "EAGLE3", "speculative_eagle_topk": 4}, OptionError, "must be 1"),
        (
            {"speculative_algorithm": "EAGLE3", "speculative_num_steps": 3, "speculative_num_draft_tokens": 3},
            OptionError,
            "contradict each other",
        ),
        ({"speculative_algorithm": "EAGLE3", "speculative_num_draft_tokens": 1}, OptionError, "speculative_num_steps"),
        ({"speculative_algorithm": "EAGLE2"}, OptionError, "EAGLE3"),
        ({"speculative_algorithm": "EAGLE3"}, OptionError, "sgl draft train"),
        (
            {"speculative_algorithm": "EAGLE3", "speculative_draft_model_path": "no-such-folder"},
            ModelLoadError,
            "no-such-folder",
        ),
        (
            {"speculative_algorithm": "EAGLE3", "speculative_draft_model_path": SHIPPED_HEAD},
            ModelLoadError,
            "trained for another model",
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], kind: type[Exception], match: str, folder: Path) -> None:
    with pytest.raises(kind, match=match):
        Runtime(folder, device="cpu", **options)


def test_steps_and_tokens_of_a_round_agree(folder: Path, head_folder: Path) -> None:
    for options, steps in (({}, 4), ({"speculative_num_draft_tokens": 3}, 2), ({"speculative_num_steps": 6}, 6)):
        with drafting(folder, head_folder, quantization=None, **options) as runtime:
            assert runtime.options.chain_drafts == steps


def test_a_head_for_another_vocabulary_is_refused(target: Target, folder: Path, tmp_path: Path) -> None:
    save_head(initial_head(target, torch.arange(0, 300)), tmp_path)
    other = save_tiny(tmp_path / "other", **{**WIDE, "vocab_size": 330})
    with pytest.raises(ModelLoadError, match="vocab_size"):
        drafting(other, tmp_path, quantization=None)
    twin = save_tiny(tmp_path / "twin", seed=8, **WIDE)
    with pytest.raises(ModelLoadError, match="embeddings"):
        drafting(twin, tmp_path, quantization=None)


def test_features_after_the_last_layer_are_refused(target: Target, folder: Path, tmp_path: Path) -> None:
    head = initial_head(target, torch.arange(0, 300))
    head.config = replace(head.config, feature_layers=(1, 2, 4))
    save_head(head, tmp_path)
    with pytest.raises(NotYet, match="after the last layer"):
        drafting(folder, tmp_path, quantization=None)


def test_a_model_without_features_is_refused(head_folder: Path) -> None:
    with pytest.raises(OptionError, match="this model runs through ToyModel; leave it out"):
        head_of(head_folder, ToyModel(300), "toy", embedded=False)

    class OnGpu(ToyModel):
        device_type = "cuda"

    with pytest.raises(NotYet, match=r"device .cuda. is not supported"):
        head_of(head_folder, OnGpu(300), "toy", embedded=False)


# -- the default model
@pytest.mark.model
def test_the_default_model_drafts_with_its_head() -> None:
    with Runtime(device="cpu", max_total_tokens=2048, speculative_num_draft_tokens=0) as one:
        asked = [
            list(one.tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True))
            for q in QUESTIONS
        ]
        params = {"temperature": 0, "max_new_tokens": 64}
        expected = [one.generate(input_ids=ids, sampling_params=params)["output_ids"] for ids in asked]
        sampled = one.generate(input_ids=asked[0], sampling_params={"max_new_tokens": 40, "sampling_seed": 5})
    with drafting(None, None, max_total_tokens=2048) as runtime:
        found = [runtime.generate(input_ids=ids, sampling_params=params)["output_ids"] for ids in asked]
        assert found == expected
        assert runtime.get_server_info()["speculation"]["eagle3"]["accept_length"] > 2
        again = runtime.generate(input_ids=asked[0], sampling_params={"max_new_tokens": 40, "sampling_seed": 5})
        assert again["output_ids"] == sampled["output_ids"]
