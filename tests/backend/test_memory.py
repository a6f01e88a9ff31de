"""What a runtime keeps is bounded in bytes, and says so."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

import sgl
from sgl.backend.runtime.draft import suffix
from sgl.backend.runtime.grammar import compile as module
from sgl.backend.runtime.grammar.compile import Grammars
from sgl.backend.runtime.model.toy import toy_tokenizer
from sgl.backend.runtime.text import tokenizer as tokenizer_module
from sgl.backend.runtime.text import words
from sgl.lang.kept import DEFINITIONS


def test_the_runtime_says_what_it_holds() -> None:
    with sgl.Runtime.toy(max_total_tokens=4000) as runtime:
        before = runtime.get_server_info()["memory"]
        assert before["kv"] == {"bytes": 0, "most_bytes": 4000 * 16}
        assert before["constraints"]["entries"] == before["constraints"]["bytes"] == 0
        runtime.generate("abc", {"regex": "[a-c]{5}", "max_new_tokens": 8})
        memory = runtime.get_server_info()["memory"]
        assert memory["constraints"]["entries"] == 1 and memory["constraints"]["bytes"] > 0
        assert memory["masks"]["bytes"] > 0 and memory["kv"]["bytes"] > 0
        assert all(entry["bytes"] <= entry["most_bytes"] for entry in memory.values())
    assert runtime.get_server_info()["memory"]["kv"]["bytes"] == 0


def test_large_constraints_push_others_out_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONSTRAINT_BYTES", 1_000_000)
    tokenizer = toy_tokenizer()
    grammars = Grammars(tokenizer, tokenizer.vocab_size)
    small = [sgl.regex(f"a{i}") for i in range(12)]
    for constraint in small:
        grammars.prepare(constraint)
    assert all(grammars.has(constraint) for constraint in small)
    large = sgl.choice([f"item {i * 7919}" for i in range(500)])
    grammars.prepare(large)
    held = grammars.memory()["constraints"]
    assert grammars.has(large) and not grammars.has(small[0])
    assert held["bytes"] <= held["most_bytes"] == 1_000_000
    huge = sgl.choice([f"item {i * 7919}" for i in range(5000)])
    grammars.prepare(huge)
    assert not grammars.has(huge) and grammars.has(large), "what is larger than all may take is used, and not kept"


def test_masks_of_constraints_that_are_gone_do_not_count() -> None:
    tokenizer = toy_tokenizer()
    grammars = Grammars(tokenizer, tokenizer.vocab_size)
    prepared = grammars.prepare(sgl.regex("[a-c]{9}"))
    prepared.compiled.matcher().fill(prepared.vocabulary.new_row())
    assert grammars.memory()["masks"]["bytes"] > 0
    grammars._prepared._kept.clear()
    del prepared
    gc.collect()
    assert grammars.memory()["masks"]["bytes"] == 0


def test_caches_of_batches_stay_within_their_bounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Counts, not RSS: nothing of a batch is held by the next but what the caches may hold."""
    monkeypatch.setattr(module, "KEPT_CONSTRAINTS", 8)
    from sgl.benchmarks.memory import row

    with sgl.Runtime.toy(max_total_tokens=3000) as runtime:
        seen = []
        for batch in range(4):
            rows = [{"number": i, "batch": batch} for i in range(24)]
            row.run_batch(rows, backend=runtime, resume=tmp_path / f"{batch}.jsonl", on_error="keep")
            info = runtime.get_server_info()
            assert info["memory"]["constraints"]["entries"] <= 8
            assert info["running"] == info["queued"] == info["attached"] == 0
            seen.append(info["memory"]["constraints"]["bytes"])
        assert max(seen[1:]) <= 2 * seen[0]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_resident_memory_stays_where_it_is_once_caches_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """With caches so small that the third batch fills them: what grows from there on would be held by nothing."""
    from sgl.benchmarks.memory import measure

    monkeypatch.setattr(words, "WORDS_BYTES", 200_000)
    monkeypatch.setattr(suffix, "MOST_NODES", 2_000)
    monkeypatch.setattr(module, "KEPT_CONSTRAINTS", 64)
    monkeypatch.setattr(DEFINITIONS, "limit_bytes", 500_000)
    with sgl.Runtime.toy(max_total_tokens=4_000) as runtime:
        found = measure(25, 300, runtime)
    resident, counted = zip(*found)
    assert max(counted[3:]) < 8 << 20
    sizes = [size >> 10 for size in resident]
    assert max(resident[3:]) < resident[2] + (6 << 20), sizes  # caches of a number of entries fill for some batches
    assert max(resident[12:]) < resident[11] + (2 << 20), sizes


def test_ways_and_words_are_forgotten_at_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = toy_tokenizer()
    monkeypatch.setattr(module, "WAYS_BYTES", 40_000)
    grammars = Grammars(tokenizer, tokenizer.vocab_size)
    ways = grammars.prepare(sgl.json_schema({"type": "integer", "multipleOf": 997})).ways
    assert ways is not None
    most = 0
    for number in range(1234, 1_000_000, 9_973):
        place = ways.start()
        for digit in str(number):
            assert ways.follow(place, tokenizer.encode([(digit, False)], first=False))
        held = grammars.memory()["ways"]["bytes"]
        assert held is not None and held <= 40_000
        assert len(ways.automata._states) < 100
        most = max(most, held)
    assert most > 10_000


def test_long_texts_without_words_are_kept_within_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "CHUNK_BYTES", 1_000_000)
    tokenizer = toy_tokenizer()
    for number in range(20):
        text = "".join(f"{number * 7919 + i:x}" for i in range(6000))
        assert b"".join(tokenizer.token_bytes[i] for i in tokenizer.encode(text)) == text.encode()
        held = tokenizer.chunks.held["bytes"]
        assert held is not None and held <= 1_000_000
    assert tokenizer.chunks.held["bytes"]
    assert all(tokenizer.encode(text) == tokenizer.encode(text) for text in ("x" * 3000, "a b " * 900))


def test_stops_are_not_kept_for_good() -> None:
    tokenizer = toy_tokenizer()
    vocabulary = Grammars(tokenizer, tokenizer.vocab_size).vocabulary
    for number in range(200):
        mask = vocabulary.beginning_with(f"{number}".encode())
        assert (mask == vocabulary.mask_of(tokenizer.encode(f"{number}")[:1])).all() or number > 9
    assert vocabulary.beginning_with.cache_info().currsize <= 64


def test_what_is_known_of_the_tree_is_counted() -> None:
    with sgl.Runtime.toy(max_total_tokens=400) as runtime:
        assert runtime.get_server_info()["memory"]["tree"]["bytes"] == 0
        for number in range(60):
            runtime.generate(f"{number} abc", {"max_new_tokens": 6, "ignore_eos": True})
            tree = runtime.get_server_info()["memory"]["tree"]
            assert 0 < tree["bytes"] <= tree["most_bytes"]
        runtime.flush_cache()
        assert runtime.get_server_info()["memory"]["tree"]["bytes"] == 0
