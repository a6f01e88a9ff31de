"""EAGLE-3 heads on a tiny random Llama: what is computed, how it is stored, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sgl.backend.runtime.draft.eagle.conversations import (
    Dialogue,
    frequent_tokens,
    load_conversations,
    pack,
    save_conversations,
)
from sgl.backend.runtime.draft.eagle.evaluate import acceptance, play
from sgl.backend.runtime.draft.eagle.files import check_head, load_head, save_head
from sgl.backend.runtime.draft.eagle.head import Eagle3Head
from sgl.backend.runtime.draft.eagle.initial import initial_head
from sgl.backend.runtime.draft.eagle.lean import LeanHead
from sgl.backend.runtime.draft.eagle.native_chain import fits
from sgl.backend.runtime.draft.eagle.packed_head import PackedLinear, pack_head
from sgl.backend.runtime.draft.eagle.propose import Drafter, HeadKv
from sgl.backend.runtime.draft.eagle.target import Target, visible
from sgl.backend.runtime.draft.eagle.unroll import SoftCrossEntropy, Unroller, guess_losses
from sgl.backend.runtime.model.llama.llama import Llama
from sgl.backend.runtime.model.load.loader import load_checkpoint
from sgl.backend.runtime.step.packed import Batch, SpanLayout
from sgl.lang.errors import ModelLoadError, OptionError

from .tiny_llama import save_tiny


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def target(folder) -> Target:
    return Target(load_checkpoint(folder, "auto", folder), "cpu", torch.float32)


def a_head(target: Target, drafts: int = 100, **options) -> Eagle3Head:
    """A head with random norms too, so that they matter."""
    ids = torch.arange(0, 3 * drafts, 3)[:drafts]
    head = initial_head(target, ids, **options)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return head.requires_grad_(False)


def tokens_of(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(3, 300, count))


def seen_alone(target: Target, tokens: torch.Tensor, after=(2, 2, 1)):
    ones = torch.ones(1, len(tokens), dtype=torch.int64)
    return target.see(tokens[None], ones, ones.bool(), after)


@pytest.mark.parametrize(
    "change",
    [{}, {"architectures": ["Qwen3ForCausalLM"], "head_dim": 16}, {"architectures": ["Qwen2ForCausalLM"]}],
    ids=["llama", "qwen3", "qwen2"],
)
def test_the_target_computes_what_the_runtime_computes(change, tmp_path):
    folder = save_tiny(tmp_path, **change)
    checkpoint = load_checkpoint(folder, "auto", folder)
    target, model = Target(checkpoint, "cpu", torch.float32), Llama(checkpoint)
    model.allocate(64)
    tokens = tokens_of(20)
    rows = np.arange(20)
    logits = model.forward(Batch(tokens.numpy(), rows, rows, [SpanLayout(0, 20, (), 0)], rows))
    seen = seen_alone(target, tokens)
    torch.testing.assert_close(seen.last[0] @ target.head_VE.t(), torch.from_numpy(logits), rtol=1e-3, atol=1e-3)
    assert seen.top[0].tolist() == logits.argmax(-1).tolist()
    assert seen.features.shape == (1, 20, 96)


def test_packed_conversations_do_not_see_each_other(target):
    first, second = tokens_of(11, 1), tokens_of(9, 2)
    rows = pack([Dialogue(t.numpy(), ((4, len(t)),)) for t in (first, second)], 24)
    assert len(rows) == 1
    packed = target.see(rows.tokens, rows.segments, rows.written, (1, 2, 3))
    for tokens in (first, second):
        begin = (rows.tokens[0] == tokens[0]).nonzero()[0, 0]
        alone = seen_alone(target, tokens, (1, 2, 3))
        part = packed.features[0, begin : begin + len(tokens)]
        torch.testing.assert_close(part, alone.features[0], rtol=1e-4, atol=1e-4)


def test_rows_hold_every_token_that_fits_once():
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 50, 200)
    conversations = [Dialogue(rng.integers(1, 99, n), ((1, int(n)),)) for n in lengths]
    rows = pack(conversations, 40, seed=1)
    kept = sum(min(int(n), 40) for n in lengths)
    assert int((rows.segments > 0).sum()) == kept
    assert int(rows.written.sum()) == kept - len(conversations)
    assert sorted(rows.tokens[rows.segments > 0].tolist()) == sorted(
        t for each in conversations for t in each.tokens[:40].tolist()
    )
    assert kept / rows.tokens.numel() > 0.9


def test_conversations_come_back_from_their_file(tmp_path):
    conversations = [
        Dialogue(np.array([1, 2, 70_000]), ((1, 3),)),
        Dialogue(np.array([5, 6, 7, 8]), ((1, 2), (3, 4))),
    ]
    save_conversations(tmp_path / "a", conversations)
    back = load_conversations(tmp_path / "a")
    assert [(c.tokens.tolist(), c.written) for c in back] == [(c.tokens.tolist(), c.written) for c in conversations]
    save_conversations(tmp_path / "none", [])
    assert load_conversations(tmp_path / "none") == []
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes()[:60])
    with pytest.raises(OptionError, match="delete it"):
        load_conversations(tmp_path / "b")


def test_the_draft_vocabulary_is_what_was_written_most():
    conversations = [Dialogue(np.array([9, 9, 9, 3, 3, 5]), ((3, 6),))]
    ids, covered = frequent_tokens(conversations, 12, 2)
    assert ids.tolist() == [3, 5] and covered == 1.0
    ids, covered = frequent_tokens(conversations, 12, 1)
    assert ids.tolist() == [3] and covered == pytest.approx(2 / 3)


@pytest.mark.parametrize("drafts", [1, 4])
def test_a_chain_is_what_training_unrolls(target, drafts):
    """A chain of real drafts equals the unrolled steps while its drafts are the text's tokens."""
    head = a_head(target)
    tokens = tokens_of(30)
    drafter = Drafter(head, target.embed_VE)
    # Write a text whose tokens are the head's own drafts from position 8 on, so that whole chains are right.
    features = seen_alone(target, tokens, head.config.features_of(4)).features[0]
    chain = drafter.propose(HeadKv(head), tokens[1:10].tolist(), features[:9], drafts)
    tokens[10 : 10 + drafts] = torch.tensor(chain.tokens)
    steps = Unroller().steps(
        head, target.embed_VE, tokens[None], visible(torch.ones(1, 30)),
        seen_alone(target, tokens, head.config.features_of(4)).features, drafts,
    )  # fmt: skip
    for step, normed in enumerate(steps):
        chances = head.lm_head(normed[0, 8]).softmax(-1)
        assert int(head.draft_ids()[chances.argmax()]) == chain.tokens[step]
        assert float(chances.max()) == pytest.approx(chain.probabilities[step], rel=1e-4)


def test_a_heads_kv_may_grow_in_any_pieces_and_be_cut(target):
    head = a_head(target)
    tokens = tokens_of(120)
    features = seen_alone(target, tokens, head.config.features_of(4)).features[0]
    drafter = Drafter(head, target.embed_VE)
    whole = drafter.propose(HeadKv(head), tokens[1:101].tolist(), features[:100], 3)
    kv, at = HeadKv(head), 0
    for size in (1, 7, 40, 2, 50):
        twin = kv.fork()
        drafter.propose(twin, [9] * 20, features[:20], 4)  # another branch: nothing of it shows here
        last = drafter.propose(kv, tokens[at + 1 : at + size + 1].tolist(), features[at : at + size], 3)
        at += size
        assert kv.length == at
    assert last.tokens == whole.tokens
    kv.truncate(60)
    again = drafter.propose(kv, tokens[61:101].tolist(), features[60:100], 3)
    assert again.tokens == whole.tokens and again.probabilities == pytest.approx(whole.probabilities, rel=1e-4)
    with pytest.raises(OptionError):
        kv.truncate(101)
    with pytest.raises(OptionError, match="go together"):
        drafter.propose(kv, [1, 2], features[:1], 3)
    with pytest.raises(OptionError, match="positions"):
        Drafter(head, target.embed_VE, positions=50).propose(HeadKv(head), tokens[1:50].tolist(), features[:49], 3)


def test_rounds_are_counted_as_an_engine_would_play_them(target):
    """Acceptance on a text against a plain loop of drafting and comparing."""
    head = a_head(target, drafts=106)
    drafter = Drafter(head, target.embed_VE)
    tokens = tokens_of(40, 4) // 3 * 3  # draft tokens only
    after = head.config.features_of(4)
    for place in range(10, 40):  # two of three tokens are what the head guesses
        if place % 3:
            features = seen_alone(target, tokens, after).features[0]
            chain = drafter.propose(HeadKv(head), tokens[1:place].tolist(), features[: place - 1], 1)
            tokens[place] = chain.tokens[0]
    features = seen_alone(target, tokens, after).features[0]
    kv, known, rounds = HeadKv(head), 6, 0
    while known < 39:
        chain = drafter.propose(kv, tokens[kv.length + 1 : known + 1].tolist(), features[kv.length : known], 3)
        right = 0
        while right < 3 and known + 1 + right < 40 and chain.tokens[right] == int(tokens[known + 1 + right]):
            right += 1
        known = min(39, known + right + 1)
        rounds += 1
    measured = acceptance(head, target, [Dialogue(tokens.numpy(), ((6, 40),))], chains=(3,))
    assert measured.a_round[3] == pytest.approx(33 / rounds)
    assert measured.a_round[3] > 1.2 and measured.tokens == 33


def test_play_counts_the_models_own_token():
    hits = np.zeros((2, 10), bool)
    assert play(hits, 3, 10) == (6, 6)
    hits[:] = True
    assert play(hits, 3, 10) == (2, 6)
    hits[1] = False
    assert play(hits, 3, 10) == (3, 6)
    assert play(hits, 3, 4) == (0, 0)


def test_the_losss_own_gradient_is_autograds():
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 5, dtype=torch.float64), torch.randn(11, 5, dtype=torch.float64)
    wanted, share = torch.randn(7, 11, dtype=torch.float64), torch.rand(7, dtype=torch.float64)
    for each in (hidden, weight):
        each.requires_grad_()
    loss, best = SoftCrossEntropy.apply(guess_losses, hidden, weight, wanted, wanted.logsumexp(-1), share)
    loss.backward()
    mine = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    logits = hidden @ weight.t()
    plain = torch.nn.functional.cross_entropy(logits, wanted.softmax(-1), reduction="none")
    (plain * share).sum().backward()
    torch.testing.assert_close(mine, (hidden.grad, weight.grad), rtol=1e-5, atol=1e-5)
    assert best.tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("form", ["bf16", "int8"])
def test_a_head_comes_back_from_its_folder(form, target, tmp_path):
    head = a_head(target, intermediate=64)
    save_head(head, tmp_path, form=form)
    back = load_head(tmp_path)
    assert back.config == head.config
    assert torch.equal(back.t2d, head.t2d) and torch.equal(back.d2t, head.d2t)
    for name, weight in head.named_parameters():
        error = (back.state_dict()[name] - weight).norm() / weight.norm()
        assert error < 0.02, name  # the diagonal of fc is large: its rows are coarser
    check_head(back, target.config, target.embed_VE, head_name="head", name="tiny")


def test_an_option_of_the_form_is_checked(target, tmp_path):
    with pytest.raises(OptionError, match="bf16"):
        save_head(a_head(target), tmp_path, form="bf61")


def test_vllms_names_are_read(target, tmp_path):
    head = a_head(target)
    save_head(head, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    outside = ("lm_head.weight", "t2d", "d2t")
    renamed = {
        name if name in outside else "model." + name.replace("midlayer.", "layers.0."): tensor
        for name, tensor in tensors.items()
    }
    save_file(renamed, tmp_path / "model.safetensors")
    back = load_head(tmp_path)
    assert torch.equal(back.midlayer.mlp.up_proj.weight, tensors["midlayer.mlp.up_proj.weight"].float())


def change_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


DAMAGE = {
    "missing": (lambda t: t.pop("midlayer.hidden_norm.weight"), "'midlayer.hidden_norm.weight' is missing"),
    "unknown": (lambda t: t.update({"midlayer.mlp.gate.weight": torch.ones(2)}), "'midlayer.mlp.gate.weight'"),
    "bias": (lambda t: t.update({"fc.bias": torch.ones(32)}), "'fc.bias' is not of an EAGLE-3 head"),
    "shape": (lambda t: t.update({"fc.weight": torch.ones(32, 64)}), "'fc.weight' has shape"),
    "vocabulary": (lambda t: t.update(t2d=torch.ones(99, dtype=torch.bool)), "'t2d' has shape"),
    "maps": (lambda t: t["d2t"].__setitem__(3, t["d2t"][3] + 1), "'t2d' and 'd2t'"),
    "beyond": (lambda t: t["d2t"].__setitem__(99, 9999), "'d2t' leads beyond"),
    "no scale": (lambda t: t.update({"fc.weight": torch.ones(32, 96, dtype=torch.int8)}), "'fc.weight_scale'"),
    "twice": (lambda t: t.update({"model.norm.weight": torch.ones(32)}), "twice"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_wrong_tensor_is_named(damage, target, tmp_path):
    save_head(a_head(target), tmp_path)
    change, message = DAMAGE[damage]
    change_tensors(tmp_path, change)
    with pytest.raises(ModelLoadError, match=message):
        load_head(tmp_path)


WRONG = {
    "architectures": (["LlamaForCausalLM"], "no EAGLE-3 head"),
    "num_hidden_layers": (2, "one layer"),
    "norm_before_fc": (True, "norm_before_fc"),
    "hidden_act": ("gelu", "hidden_act"),
    "target_hidden_size": (64, "target_hidden_size"),
    "fc_norm": (False, "fc_norm.0.weight"),
    "draft_vocab_size": (99, "has shape"),
    "hidden_size": (48, "fc.weight"),
    "eagle_config": ({"eagle_aux_hidden_state_layer_ids": [1, 2]}, "three layers"),
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_field_is_named(key, target, tmp_path):
    save_head(a_head(target), tmp_path)
    value, message = WRONG[key]
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ModelLoadError, match=message):
        load_head(tmp_path)


def test_a_head_of_another_model_is_refused(target, tmp_path):
    head = a_head(target)
    for change, message in (
        ({"num_hidden_layers": 5}, "'num_hidden_layers' of its target is 4"),
        ({"hidden_size": 64}, "'hidden_size'"),
        ({"vocab_size": 304}, "'vocab_size'"),
    ):
        other = Target(
            load_checkpoint(save_tiny(tmp_path / message[1:5], **change), "auto", tmp_path), "cpu", torch.float32
        )
        with pytest.raises(ModelLoadError, match=message):
            check_head(head, other.config, other.embed_VE, head_name="head", name="other")
    twin = Target(load_checkpoint(save_tiny(tmp_path / "twin", seed=8), "auto", tmp_path), "cpu", torch.float32)
    with pytest.raises(ModelLoadError, match="embeddings"):
        check_head(head, twin.config, twin.embed_VE, head_name="head", name="twin")


def test_published_fields_are_obeyed(target, tmp_path):
    """3.0 heads have neither norms of features nor a normed output; ids of features count as their file says."""
    head = a_head(target)
    save_head(head, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [1, 1, 0]
    for key in ("fc_norm", "norm_output", "eagle_config", "target"):
        config.pop(key)
    config["eagle_aux_hidden_state_layer_ids"] = [1, 2, 4]
    (tmp_path / "config.json").write_text(json.dumps(config))
    change_tensors(tmp_path, lambda t: [t.pop(f"fc_norm.{i}.weight") for i in range(3)])
    back = load_head(tmp_path)
    assert back.config.features_of(4) == (1, 2, 4)
    tokens = tokens_of(12)
    features = seen_alone(target, tokens, (1, 2, 4)).features[0]
    plain = Drafter(back, target.embed_VE).propose(HeadKv(back), tokens[1:12].tolist(), features[:11], 3)
    assert len(plain.tokens) == 3 and all(back.t2d[t] for t in plain.tokens)
    fused = features @ back.fc.weight.t()
    torch.testing.assert_close(back.fuse(features), fused)


def library_or_skip() -> None:
    from sgl.backend.runtime.model.cpu import native

    try:
        native.library()
    except native.MissingLibrary as error:
        pytest.skip(str(error))


def test_a_packed_head_drafts_what_the_head_drafts(target):
    library_or_skip()
    plain, small = a_head(target, intermediate=64), a_head(target, intermediate=64)
    assert pack_head(small) and isinstance(small.midlayer.mlp.gate_proj, PackedLinear)
    tokens = tokens_of(40)
    features = seen_alone(target, tokens, plain.config.features_of(4)).features[0]
    mine, theirs = (
        Drafter(head, target.embed_VE).propose(HeadKv(head), tokens[1:].tolist(), features[:39], 3)
        for head in (small, plain)
    )
    assert mine.tokens[0] == theirs.tokens[0]
    assert mine.probabilities[0] == pytest.approx(theirs.probabilities[0], rel=0.1)


@pytest.mark.parametrize("option", ["", "fc_norm", "norm_output", "norm_before_residual"])
def test_a_chain_of_the_kernels_is_the_chain_in_numpy(option, target):
    library_or_skip()
    shape = replace(a_head(target, intermediate=64).config.shape, head_dim=32)
    head = a_head(target, intermediate=64)
    torch.manual_seed(7)
    config = replace(head.config, shape=shape, **({option: True} if option else {}))
    wide = Eagle3Head(config)
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.uniform_(-0.2, 0.2) if parameter.dim() > 1 else parameter.uniform_(0.5, 1.5)
    wide.choose_drafts(torch.arange(0, 300, 3))
    assert pack_head(wide.requires_grad_(False)) and fits(wide)
    tokens, features = tokens_of(90).tolist(), torch.randn(90, wide.fc.in_features)
    compiled, slow = Drafter(wide, target.embed_VE), Drafter(wide, target.embed_VE)
    slow._native, slow._lean = None, LeanHead(wide)
    mine, theirs = HeadKv(wide), HeadKv(wide)
    begin = 0
    for end in (1, 4, 70, 73):  # entries beyond one block of keys, with places that have none
        at = range(end + 2, end + 2 + end - begin)
        what = tokens[begin:end], features[begin:end], 4
        a, b = compiled.propose(mine, *what, at=at), slow.propose(theirs, *what, at=at)
        assert a.tokens == b.tokens and len(a.tokens) == 4
        assert a.probabilities == pytest.approx(b.probabilities, rel=0.02)
        assert mine.length == theirs.length == end
        begin = end
    assert compiled.propose(mine, tokens[73:75], features[73:75], 4, least=1.1).tokens == ()


def test_a_head_that_does_not_fit_the_kernels_stays(target):
    library_or_skip()
    head = a_head(target, intermediate=50)
    assert not pack_head(head) and isinstance(head.midlayer.mlp.down_proj, torch.nn.Linear)
