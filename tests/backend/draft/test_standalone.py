"""A draft model that shares the target's slots: the text and its log-probabilities stay, and its KV is the text's.

On the toy model, whose logits are a hash of all that a row attends to. A toy that drafts for a toy with the same logits
is right wherever its own slots hold what they should, so one wrong guess is one wrong slot.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sgl
from sgl.backend.base import GenRequest
from sgl.backend.runtime.draft.draft_model import DraftModel
from sgl.backend.runtime.draft.model_source import DraftModelSource
from sgl.backend.runtime.draft.path_names import PathNames
from sgl.backend.runtime.kv.cursor import Cursor
from sgl.backend.runtime.kv.pool import SlotPool
from sgl.backend.runtime.kv.tree import Tree
from sgl.backend.runtime.model.toy import ToyModel
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.errors import ModelLoadError, NotYet, OptionError, OutOfMemory
from sgl.lang.expr import Sampling

from ..job.test_constrained import CONSTRAINTS, RANKINGS, favouring
from ..naive import rush
from ..step.lagging import lagging
from ..step.overlapping import CONFIGS, ENDING, outcome, programs, step_to_the_end, whole
from .guessing import speculate
from .test_speculation import everything, without
from .tiny_llama import save_tiny

TOY_TOKENS = Runtime.toy().tokenizer.vocab_size
DRAFT_MODELS: dict[str, Any] = {
    "the same": lambda favour: ToyModel(TOY_TOKENS + 5, favour=favour),
    "another width": lambda favour: ToyModel(TOY_TOKENS + 77, favour=favour),
    "another taste": lambda favour: ToyModel(TOY_TOKENS + 5, favour={**(favour or {}), 97: 9.0, 98: 9.0}),
}


class Verdicts:
    """What became of each guess, by the sites of a source."""

    def __init__(self, source: DraftModelSource) -> None:
        self.right = self.wrong = 0
        self._learn = source.learn
        self._source = source
        source.learn = self.learn  # type: ignore[method-assign]

    def learn(self, step: Any) -> None:
        for span in step.spans:
            text = self._source._texts.get(span.branch)
            if text is not None and text.guesses and span.chain is None and text.cuts == span.branch.cursor.cuts:
                for guess, token in zip(text.guesses, span.branch.cursor.path_tokens(text.guessed_at)):
                    self.right += guess.token == token
                    self.wrong += guess.token != token
                    if guess.token != token:
                        break
        self._learn(step)


def drafting(runtime: Runtime, model: ToyModel, steps: int = 4) -> Verdicts:
    """Let a toy draft for a runtime, whatever it costs."""
    DraftModel(model, "a toy", steps).add(runtime.engine)
    source = runtime.engine.speculation.proposers[-1]
    assert isinstance(source, DraftModelSource)
    speculate(runtime, source)
    runtime.engine.speculation.cost.seconds = lambda rows: 1e9  # type: ignore[method-assign]
    return Verdicts(source)


# -- the text stays
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(programs(2), min_size=1, max_size=4),
    CONFIGS,
    st.sampled_from(list(DRAFT_MODELS)),
    st.sampled_from([1, 2, 4, 9]),
    st.booleans(),
    st.booleans(),
)
def test_random_programs_are_the_same_with_a_draft_model(
    batch: list[list[Any]], config: dict[str, Any], kind: str, steps: int, device: bool, hasty: bool
) -> None:
    plain = everything(without(Runtime.toy(favour=ENDING)), batch)
    runtime = lagging(ENDING, **config) if device else Runtime.toy(favour=ENDING, **config)
    verdicts = drafting(runtime, DRAFT_MODELS[kind](ENDING), steps)
    if hasty:
        rush(runtime)
    for mine, theirs in zip(everything(runtime, batch), plain):
        if isinstance(mine.branch.error, OutOfMemory):
            assert 2 * theirs.branch.cursor.length + 80 > config["max_total_tokens"]
        else:
            assert list(map(outcome, mine.handles)) == list(map(outcome, theirs.handles))
            assert mine.branch.cursor.path_tokens() == theirs.branch.cursor.path_tokens()
    whole(runtime)
    if kind != "another taste":
        assert not verdicts.wrong, "a slot of the draft model holds another text"


@pytest.mark.parametrize("ranking", ["none", "quotes", "digits"])
@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_constrained_texts_are_the_same(kind: str, ranking: str) -> None:
    samplings = [
        Sampling(max_tokens=40, temperature=0.0),
        Sampling(max_tokens=60, temperature=1.0, top_p=0.9),
        Sampling(max_tokens=30, temperature=1.0, min_tokens=4, return_logprob=True, top_logprobs_num=1),
        Sampling(max_tokens=50, temperature=1.0, frequency_penalty=0.7),
    ]

    def run(runtime: Runtime) -> list[Any]:
        handles = []
        for seed in range(8):
            branch = runtime.open(seed=seed)
            branch.append(f"{seed}: ")
            for sampling in samplings[seed % 4 :: 2]:
                request = GenRequest(sampling, constraint=CONSTRAINTS[kind], on_budget="close" if seed < 6 else "error")
                handles.append(branch.gen(request))
                branch.append(" and ")
        step_to_the_end(runtime)
        return [outcome(handle) for handle in handles]

    texts = run(without(favouring(RANKINGS[ranking])))
    runtime = favouring(RANKINGS[ranking])
    bias: Any = runtime.engine.model._bias  # type: ignore[attr-defined]
    verdicts = drafting(runtime, DRAFT_MODELS["another width"]({i: float(b) for i, b in enumerate(bias)}))
    assert run(runtime) == texts
    runtime.check()
    steered = sum(each[0][-1]["steered"] for each in texts if isinstance(each, list))
    assert verdicts.wrong <= steered  # its mask and its noise are the target's


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("device", [False, True])
def test_right_drafts_save_steps_and_are_counted(device: bool, temperature: float, batch: int) -> None:
    sampling = Sampling(max_tokens=40, temperature=temperature, ignore_eos=True)
    texts = [[("text", f"{i}"), ("gen", sampling, 1)] for i in range(batch)]
    plain = without(Runtime.toy())
    expected = everything(plain, texts)
    runtime = lagging(None) if device else Runtime.toy()
    verdicts = drafting(runtime, DRAFT_MODELS["the same"](None))
    found = everything(runtime, texts)
    assert [outcome(run.handles[0]) for run in found] == [outcome(run.handles[0]) for run in expected]
    counts = runtime.get_server_info()["speculation"]["standalone"]
    assert counts["accept_rate"] > 0.99 and counts["accept_length"] > 4 and not verdicts.wrong
    assert runtime.engine.steps < plain.engine.steps / 3
    assert found[0].handles[0].value()[0].usage.accepted > 20


def test_a_prefix_that_branches_share_is_read_once() -> None:
    common = "A long common beginning of many words, which all of the programs share; " * 4
    texts = [[("text", f"{common}{i}"), ("gen", Sampling(max_tokens=12, ignore_eos=True), 1)] for i in range(6)]
    runtime = Runtime.toy(max_running_requests=8)
    verdicts = drafting(runtime, DRAFT_MODELS["the same"](None))
    rows = 0
    source: Any = runtime.engine.speculation.proposers[-1]
    compute = source._compute

    def counted(step: Any, asks: Any) -> Any:
        nonlocal rows
        rows += len(step.tokens)
        return compute(step, asks)

    source._compute = counted
    everything(runtime, texts)
    length = len(runtime.tokenizer.encode(common))
    assert length < rows < length + 6 * 40 and not verdicts.wrong


def test_a_text_that_is_long_for_what_it_may_bring_is_not_read() -> None:
    runtime = Runtime.toy()
    drafting(runtime, DRAFT_MODELS["the same"](None))
    source: Any = runtime.engine.speculation.proposers[-1]
    runtime.engine.speculation.cost.seconds = lambda rows: 1.0  # type: ignore[method-assign]
    source.cost.seconds = lambda rows: 0.1 * rows
    everything(runtime, [[("text", "a b c " * 100), ("gen", Sampling(max_tokens=8, ignore_eos=True), 1)]])
    assert "standalone" not in runtime.get_server_info()["speculation"]


def test_a_dear_draft_model_is_silent() -> None:
    runtime = Runtime.toy()
    drafting(runtime, DRAFT_MODELS["the same"](None))
    source: Any = runtime.engine.speculation.proposers[-1]
    runtime.engine.speculation.cost.seconds = lambda rows: 1.0  # type: ignore[method-assign]
    source.cost.seconds = lambda rows: 2.0
    everything(runtime, [[("text", "a"), ("gen", Sampling(max_tokens=50, ignore_eos=True), 1)]])
    assert "standalone" not in runtime.get_server_info()["speculation"]


# -- what is told, and what goes wrong
def test_memory_is_told_and_given_back() -> None:
    runtime = Runtime.toy(max_total_tokens=1000)
    drafting(runtime, DRAFT_MODELS["the same"](None))
    runtime.generate("Say it: ", {"max_new_tokens": 30, "ignore_eos": True})
    held = runtime.get_server_info()["memory"]["drafts"]
    assert held["most_bytes"] == 1001 * 16 and held["bytes"] == 16 * held["entries"] and 30 < held["entries"] < 60
    runtime.flush_cache()
    assert runtime.get_server_info()["memory"]["drafts"]["entries"] == 0


def test_a_draft_model_that_raises_is_switched_off(caplog: pytest.LogCaptureFixture) -> None:
    params = {"max_new_tokens": 30, "temperature": 0, "ignore_eos": True}
    expected = without(Runtime.toy()).generate("some text", params)["output_ids"]

    class Failing(ToyModel):
        calls = 0

        def forward(self, batch: Any) -> Any:
            Failing.calls += 1
            if Failing.calls == 14:
                raise ValueError("no more ideas")
            return super().forward(batch)

    runtime = Runtime.toy()
    drafting(runtime, Failing(TOY_TOKENS + 5))
    with caplog.at_level(logging.WARNING, logger="sgl"):
        assert runtime.generate("some text", params)["output_ids"] == expected
    assert "the drafts of 'standalone' are switched off: ValueError: no more ideas" in caplog.text
    assert Failing.calls == 14 and runtime.engine.speculation.proposers == []
    assert runtime.get_server_info()["memory"]["drafts"] == {"bytes": 0, "most_bytes": 0, "entries": 0}


def test_logits_that_are_not_numbers_switch_it_off(caplog: pytest.LogCaptureFixture) -> None:
    runtime = Runtime.toy()
    drafting(runtime, ToyModel(TOY_TOKENS + 5, favour={5: float("nan")}))
    with caplog.at_level(logging.WARNING, logger="sgl"):
        answer = runtime.generate("some text", {"max_new_tokens": 30, "ignore_eos": True})
    assert answer["meta_info"]["completion_tokens"] == 30
    assert "'standalone' are switched off" in caplog.text and "NaN" in caplog.text


def test_names_follow_a_text_that_is_cut() -> None:
    cursor, other = (Cursor(Tree(SlotPool(100))) for _ in range(2))
    path, afresh = PathNames(), PathNames()
    cursor.extend(list(range(90)))
    path.follow(cursor)
    before = path.names.copy()
    cursor.truncate(40)
    cursor.extend([7, 8, 9])
    path.follow(cursor)
    other.extend([*range(40), 7, 8, 9])
    afresh.follow(other)
    assert (path.names == afresh.names).all() and (path.names[:40] == before[:40]).all()
    assert path.tokens == other.path_tokens() and len(set(path.names.tolist())) == 43


# -- what is refused, and a model of files
WIDE = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return save_tiny(tmp_path_factory.mktemp("target"), **WIDE)


@pytest.fixture(scope="module")
def small(tmp_path_factory: Any) -> Path:
    return save_tiny(tmp_path_factory.mktemp("small"), seed=9, num_hidden_layers=1)


def test_a_model_of_files_drafts(folder: Path, small: Path) -> None:
    params = [{"max_new_tokens": 40, "temperature": t, "ignore_eos": True, "sampling_seed": 3} for t in (0.0, 1.0)]
    prompts = ["a text", "another one"]
    with sgl.Runtime(folder, device="cpu", speculative_num_draft_tokens=0) as one:
        expected = [one.generate(prompts, each) for each in params]
    for draft, steps in ((small, 3), (folder, 4)):
        with sgl.Runtime(
            folder, device="cpu", speculative_algorithm="STANDALONE", speculative_draft_model_path=str(draft),
            speculative_num_steps=steps,
        ) as other:  # fmt: skip
            assert other.options.chain_drafts == steps
            speculate(other, other.engine.speculation.proposers[-1])
            other.engine.speculation.cost.seconds = lambda rows: 1e9  # type: ignore[method-assign]
            for each, texts in zip(params, expected):
                assert [t["output_ids"] for t in other.generate(prompts, each)] == [t["output_ids"] for t in texts]
            counts = other.get_server_info()["speculation"]["standalone"]
            if draft == folder:
                assert counts["accept_rate"] > 0.95 and counts["accept_length"] > 4
            other.check()


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({}, OptionError, "say speculative_draft_model_path="),
        (
            {"speculative_draft_model_path": "no-such-file.gguf"},
            ModelLoadError,
            "path: no-such-file.gguf: no such file",
        ),
        ({"speculative_draft_model_path": "SMALL", "speculative_eagle_topk": 2}, OptionError, "must be 1"),
        ({"speculative_draft_model_path": "SMALL", "speculative_num_steps": 0}, OptionError, "speculative_num_steps"),
        ({"speculative_draft_model_path": "SMALL", "speculative_num_steps": 16}, OptionError, "at most 15"),
        (
            {"speculative_draft_model_path": "SMALL", "speculative_num_steps": 8, "context_length": 8},
            OptionError,
            "context of 8 tokens leaves no room",
        ),
        (
            {"speculative_draft_model_path": "SMALL", "speculative_num_steps": 3, "speculative_num_draft_tokens": 3},
            OptionError,
            "contradict each other",
        ),
    ],
)
def test_wrong_options_are_refused(
    options: dict[str, Any], kind: type[Exception], match: str, folder: Path, small: Path
) -> None:
    options = {key: small if value == "SMALL" else value for key, value in options.items()}
    with pytest.raises(kind, match=match):
        sgl.Runtime(folder, device="cpu", speculative_algorithm="STANDALONE", **options)


def test_a_later_way_to_draft_is_refused(folder: Path) -> None:
    with pytest.raises(NotYet, match="'STANDALONE' with a smaller model"):
        sgl.Runtime(folder, device="cpu", speculative_algorithm="NEXTN")


def test_another_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    """Of the same size, and of another."""
    for name, change in (("other", {"a": "b", "b": "a"}), ("longer", {})):
        draft = save_tiny(tmp_path / name, num_hidden_layers=1)
        file = draft / "tokenizer.json"
        described = json.loads(file.read_text())
        vocab = described["model"]["vocab"]
        described["model"]["vocab"] = {change.get(piece, piece): number for piece, number in vocab.items()}
        if name == "longer":
            described["added_tokens"].append(
                {**described["added_tokens"][-1], "id": 310, "content": "<|more|>", "special": True}
            )
        file.write_text(json.dumps(described))
        expected = "token 64 is b'b' and not b'a'" if change else "260 tokens and not 259"
        with pytest.raises(ModelLoadError, match=expected):
            sgl.Runtime(folder, device="cpu", speculative_algorithm="STANDALONE", speculative_draft_model_path=draft)


def test_a_shorter_context_is_refused(folder: Path, tmp_path: Path) -> None:
    draft = save_tiny(tmp_path / "short", max_position_embeddings=128)
    options = {"device": "cpu", "speculative_algorithm": "STANDALONE", "speculative_draft_model_path": draft}
    with pytest.raises(OptionError, match="say context_length=128"):
        sgl.Runtime(folder, **options)
    with sgl.Runtime(folder, context_length=128, **options) as runtime:
        assert runtime.generate("a", {"max_new_tokens": 3, "ignore_eos": True})["meta_info"]["completion_tokens"] == 3


@pytest.mark.model
def test_the_default_model_drafts_for_itself() -> None:
    """Which cannot pay, but shows that the draft model reads what the target reads."""
    prompts = ["The capital of France is", "Three colours of the rainbow are", "A short story: once upon a time"]
    params = [{"max_new_tokens": 40, "temperature": t, "sampling_seed": 3} for t in (0.0, 1.0)]
    with sgl.Runtime(device="cpu", max_total_tokens=2048, speculative_num_draft_tokens=0) as one:
        expected = [[each["output_ids"] for each in one.generate(prompts, options)] for options in params]
    with sgl.Runtime(
        device="cpu", max_total_tokens=2048, speculative_algorithm="STANDALONE",
        speculative_draft_model_path="smollm2-135m",
    ) as other:  # fmt: skip
        speculate(other, other.engine.speculation.proposers[-1])
        other.engine.speculation.cost.seconds = lambda rows: 1e9  # type: ignore[method-assign]
        found = [[each["output_ids"] for each in other.generate(prompts, options)] for options in params]
        counts = other.get_server_info()["speculation"]["standalone"]
        held = other.get_server_info()["memory"]["drafts"]
    assert found == expected
    assert counts["accept_length"] > 4 and counts["accept_rate"] > 0.95
    assert 150 < held["entries"] < 600 and held["bytes"] == held["entries"] * 30 * 2 * 3 * 64 * 4
