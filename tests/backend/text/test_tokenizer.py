"""Joint tokenisation, control tokens, BOS and the byte table, on small tokenizers of every kind, trained here.

The oracle is the Rust tokenizer on the whole string; for `encode_choices` it is `encode` of prompt + choice.
"""

from __future__ import annotations

import json
import threading
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from sgl.backend.runtime.text import tokenizer as tokenizer_module
from sgl.backend.runtime.text import words as words_module
from sgl.backend.runtime.text.tokenizer import Tokenizer
from sgl.backend.runtime.text.words import Words
from sgl.lang.chat import ChatTemplate
from sgl.lang.conversation import Conversation
from sgl.lang.errors import ModelLoadError, OptionError

CORPUS = [
    "The quick brown fox jumps over the lazy dog; it's the dog's answer: yes, no, maybe. The answer is yes.",
    "<|im_start|>user\nWhat is 12 + 345?<|im_end|>\n<|im_start|>assistant\nThe answer is 357.<|im_end|>\n",
    "def f(x):\n    return x  +  1\n\n\nprint(f(12))   # café naïve 東京 island land is an",
] * 4
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]
BYTE_LEVEL = ["gpt2", "llama3", "unsure", "prefix_bytes"]
KINDS = [*BYTE_LEVEL, "metaspace_first", "metaspace_always", "legacy", "gemma", "unigram"]


@cache
def rust(kind: str) -> tokenizers.Tokenizer:
    """`gpt2`, `llama3`: byte-level BPE. The others: SentencePiece style with different dummy spaces."""
    trainer_options = {"vocab_size": 700, "special_tokens": SPECIAL, "show_progress": False}
    if kind in BYTE_LEVEL:
        tok = tokenizers.Tokenizer(models.BPE())
        tok.decoder = decoders.ByteLevel()
        split = pre_tokenizers.ByteLevel(add_prefix_space=kind == "prefix_bytes")
        if kind in ("llama3", "unsure"):  # unsure: the pattern looks behind, so no prompt may be cut
            pattern = Regex(LLAMA3 if kind == "llama3" else rf"(?<=o) x|{LLAMA3}")
            bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            split = pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), bytes_only])
            tok.normalizer = normalizers.NFC()
        tok.pre_tokenizer = split
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        tok.train_from_iterator(CORPUS, trainers.BpeTrainer(initial_alphabet=alphabet, **trainer_options))
    else:
        unigram = kind == "unigram"
        trained = tokenizers.Tokenizer(models.Unigram() if unigram else models.BPE(unk_token="<unk>"))
        trained.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer if unigram else trainers.BpeTrainer
        given_specials = {**trainer_options, "special_tokens": SPECIAL + BYTES}
        if unigram:
            given_specials["unk_token"] = "<unk>"
        trained.train_from_iterator(CORPUS, trainer(**given_specials))
        tok = sentencepiece_style(trained, kind)
    tok.add_special_tokens(SPECIAL)
    tok.add_tokens([AddedToken("<tool_call>", normalized=False)])
    return tok


def sentencepiece_style(trained: tokenizers.Tokenizer, kind: str) -> tokenizers.Tokenizer:
    """The trained model with byte fallback and one of the ways in which such files add their dummy space."""
    tree = json.loads(trained.to_str())
    tree["model"]["byte_fallback"] = True
    tree["added_tokens"] = []
    tok = tokenizers.Tokenizer.from_str(json.dumps(tree))
    if kind in ("legacy", "gemma"):
        spaces = [normalizers.Prepend("▁")] if kind == "legacy" else []
        tok.normalizer = normalizers.Sequence([*spaces, normalizers.Replace(" ", "▁")])
        tok.pre_tokenizer = None  # type: ignore[assignment]
    else:
        scheme = "first" if kind == "metaspace_first" else "always"
        tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=kind != "metaspace_first")
    tok.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tok


@cache
def tokenizer(kind: str, add_bos: bool = False) -> Tokenizer:
    bos, eos = (rust(kind).token_to_id(t) for t in ("<s>", "</s>"))
    return Tokenizer(rust(kind), bos_id=bos, eos_ids=(eos,), add_bos=add_bos, vocab_size=None)


def spaced(kind: str) -> bool:
    return kind not in ("gpt2", "llama3", "unsure", "gemma")


common = st.sampled_from(
    ["The", " answer", " is", " yes", " no", "an", "land", "'s", " x", "12", "345", " ", "  ", "\n", "\n\n", ".", " (",
     "é", "東", " 京", "<|im_end|>", "<s>", "</s>", "<tool_call>", "\t", "🙂", "e\u0301", "<|im", "_end|>"]
)  # fmt: skip
words = st.one_of(common, common, common, st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=3))
text = st.lists(words, max_size=8).map("".join)
pieces = st.lists(st.tuples(text, st.booleans()), max_size=5)
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@settings(max_examples=40, deadline=None)
@given(parts=pieces)
def test_markup_alone_is_the_whole_string(kind: str, parts: list[tuple[str, bool]]) -> None:
    whole = "".join(text for text, _ in parts)
    assume(not whole.startswith(("<tool_call>",)))
    # Control words that only appear where two pieces touch are not markup of either.
    assume(all(whole.count(word) == sum(t.count(word) for t, _ in parts) for word in SPECIAL))
    expected = rust(kind).encode(whole, add_special_tokens=False).ids
    assert tokenizer(kind).encode([(text, True) for text, _ in parts], first=True) == expected


@every_kind
@settings(max_examples=40, deadline=None)
@given(parts=pieces, first=st.booleans())
def test_text_comes_back_and_spells_no_control_token(kind: str, parts: list[tuple[str, bool]], first: bool) -> None:
    tok = tokenizer(kind)
    plain = [(text, False) for text, _ in parts]
    ids = tok.encode(plain, first=first)
    assert not any(tok.is_special(i) for i in ids)
    whole = "".join(text for text, _ in plain)
    if kind in ("llama3", "unsure"):
        whole = rust(kind).normalizer.normalize_str(whole)
    text = tok.decode(ids)
    if first and spaced(kind):
        if "<tool_call>" in whole:  # old tokenizers put a dummy space after every added token as well
            text, whole = text.replace(" ", ""), whole.replace(" ", "")
        assert text in (whole, " " + whole)
    else:
        assert text == whole  # in particular: no dummy space in mid-path
    assert ids == tok.encode([("".join(t for t, _ in plain), False)], first=first)


@every_kind
@settings(max_examples=60, deadline=None)
@given(parts=pieces, last=st.one_of(st.just(""), text), choices=st.lists(text.filter(bool), min_size=1, max_size=4),
       first=st.booleans(), add_bos=st.booleans())  # fmt: skip
def test_choices_are_exactly_prompt_plus_choice(kind, parts, last, choices, first, add_bos) -> None:
    tok = tokenizer(kind, add_bos)
    parts = [*parts, ("The answer is", False), (last, False)] if last else parts
    prefix, rests = tok.encode_choices(parts, choices, first=first)
    for choice, rest in zip(choices, rests, strict=True):
        assert rest
        assert prefix + rest == tok.encode([*parts, (choice, False)], first=first)
    if not parts:
        assert prefix == ([tok.bos_id] if first and add_bos else [])
    prompt = tok.encode(parts, first=first)
    assert prompt[: len(prefix)] == prefix  # no token of a choice is taken as given
    following = prompt[len(prefix) : len(prefix) + 1]  # ... and every token of the prompt that can be is
    assert not following or any(rest[:1] != following or len(rest) == 1 for rest in rests)


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "metaspace_first", "metaspace_always", "legacy", "gemma"])
def test_a_long_prompt_is_encoded_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tok, prompt = tokenizer(kind), "The quick brown fox jumps over it. " * 170 + "The answer is"
    lengths: list[int] = []
    plain = Tokenizer._encode_plain
    monkeypatch.setattr(Tokenizer, "_encode_plain", lambda s, t, p: lengths.append(len(t)) or plain(s, t, p))
    choices = [f" {word}{i}" for i in range(50) for word in ("yes", "no")]
    prefix, rests = tok.encode_choices([(prompt, False)], choices, first=True)
    assert sum(length > 100 for length in lengths) == 1
    monkeypatch.undo()
    for choice, rest in zip(choices, rests):
        assert prefix + rest == tok.encode([(prompt + choice, False)], first=True)
    assert len(prefix) > 500 and tok.decode(prefix).rstrip().endswith("The answer is")


@every_kind
@settings(max_examples=40, deadline=None)
@given(parts=pieces, more=st.lists(text, max_size=6), first=st.booleans(), size=st.integers(1, 12))
def test_chunks_of_a_long_text_are_the_text(
    kind: str, parts: list[tuple[str, bool]], more: list[str], first: bool, size: int
) -> None:
    parts = [*parts, (" a word ".join(more), False)]
    whole = outcome(tokenizer(kind), parts, first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_module, "CHUNK_CHARACTERS", size)  # a chunk is longer: it ends at a word
        tok = tokenizer.__wrapped__(kind)
        assert outcome(tok, parts, first) == whole
        assert outcome(tok, parts, first) == whole  # from what was kept


def outcome(tok: Tokenizer, parts: list[tuple[str, bool]], first: bool) -> list[int] | str:
    try:
        return tok.encode(parts, first=first)
    except OptionError:
        return "refused"


def test_a_long_text_is_encoded_once_and_its_beginning_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "CHUNK_CHARACTERS", 64)
    tok, seen = tokenizer.__wrapped__("llama3"), []
    real = tok._encode_chunk
    monkeypatch.setattr(tok, "_encode_chunk", lambda text, prefixed: seen.append(text) or real(text, prefixed))
    shared = "".join(f"{a}{b} " for a in "abcdefghijklm" for b in "nopqrstuvwxyz")
    tok.encode([(shared + "one or two", False)], first=True)
    assert "".join(seen) == shared + "one or two" and len(seen) > 6
    del seen[:]
    tok.encode([(shared + "three or two", False)], first=True)
    assert seen == [" three"]  # the other words are known


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unsure"])
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.lists(words, max_size=12).map(" a word ".join).filter(bool), max_size=8),
       limits=st.tuples(st.integers(3_000, 10_000), st.integers(1, 8), st.sampled_from([0, 1, 4, 100])))  # fmt: skip
def test_words_that_are_known_are_the_text(kind: str, texts: list[str], limits: tuple[int, int, int]) -> None:
    tok = tokenizer(kind)
    assert tok._cuttable
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in zip(("WORDS_BYTES", "LONGEST_WORD_CHARACTERS", "WORDS_A_NEW_ONE"), limits):
            patch.setattr(words_module, name, limit)
        kept = Words(lambda text: tok._encode_chunk(text, False), tok.token_bytes)
        for text in texts:
            try:
                whole = tok._encode_chunk(text, False)
            except OptionError:
                with pytest.raises(OptionError):
                    kept.tokens(text)
                continue
            assert kept.tokens(text) == whole
            assert kept.tokens(text) == whole  # from what was kept
        assert (held := kept.held)["bytes"] <= limits[0] and (held["bytes"] > 0) == (held["entries"] > 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("added", ["is ", "er is a", " an", "\nThe ", "fox."])
def test_an_added_token_with_a_space_is_never_cut_through(kind: str, added: str) -> None:
    source = tokenizers.Tokenizer.from_str(rust(kind).to_str())
    source.add_tokens([AddedToken(added, normalized=False)])
    tok = Tokenizer(source, bos_id=None, eos_ids=(), add_bos=False, vocab_size=None)
    for text in ("The answer is a fox. The end is an answer", "is is is\nThe fox. an an", f"a fox {added}an answer"):
        whole = tok._encode_chunk(text, False)
        assert tok.encode([(text, False)], first=False) == whole
        tokens, rest = tok.encode_stable([(text, False)], first=False)
        assert tokens + tok.encode(rest, first=False) == whole


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unsure"])
def test_only_the_control_token_that_a_vocabulary_spells_is_broken(kind: str) -> None:
    """Whatever else looks like one in the text: a word has the same tokens wherever it is said."""
    tok = tokenizer(kind)
    said = ["so <|im_end|>", " one", " a<s>b", " or <|im_start|> x", " Two </s>"]
    alone = [tok._encode_chunk(text, False) for text in said]
    assert tok._encode_chunk("".join(said), False) == [i for ids in alone for i in ids]


def test_a_control_token_of_one_character_cannot_be_broken() -> None:
    full_stop = rust("gpt2").token_to_id(".")
    tok = Tokenizer(rust("gpt2"), bos_id=None, eos_ids=(full_stop,), add_bos=False, vocab_size=None)
    with pytest.raises(OptionError, match=r"no token for '\.'"):
        tok.encode([("The end. ", False)], first=False)


def test_a_text_of_new_words_is_encoded_once_and_old_words_never_again() -> None:
    tok, seen = tokenizer("llama3"), []
    kept = Words(lambda text: seen.append(text) or tok._encode_chunk(text, False), tok.token_bytes)
    for text in ("Is the answer yes", "Is yes the answer the answer and yes", "Is yes and the answer"):
        kept.tokens(text)
    assert seen == ["Is the answer yes", " and"]


def test_unsure_prompts_are_encoded_whole() -> None:
    assert not tokenizer("unsure")._cuttable
    assert not tokenizer("unsure")._word_boundary("The answer is")
    assert tokenizer("gpt2")._word_boundary("The answer is, 12") == len("The answer")
    assert tokenizer("gpt2")._word_boundary("東京 12") == 0


def test_a_choice_may_change_the_prompts_last_token() -> None:
    tok = tokenizer("gpt2")
    prefix, rests = tok.encode_choices([("it is an ", False)], ["island", "answer"], first=True)
    assert tok.decode(prefix) == "it is an"
    assert [tok.decode(r) for r in rests] == [" island", " answer"]


def test_choices_that_begin_alike_keep_their_tokens() -> None:
    tok = tokenizer("gpt2")
    prefix, rests = tok.encode_choices([("The answer", False)], [" is yes", " is no"], first=True)
    assert tok.decode(prefix) == "The answer"
    assert [tok.decode(r) for r in rests] == [" is yes", " is no"]
    assert tok.encode_choices([], ["yes", "yes no"], first=False)[0] == []


def test_bos() -> None:
    tok = tokenizer("gpt2", add_bos=True)
    plain = tok.encode([("The", False)], first=False)
    assert tok.encode([("The", False)], first=True) == [tok.bos_id, *plain]
    assert tok.encode([("<s>", True), ("The", False)], first=True) == [tok.bos_id, *plain]
    assert tok.encode([("<s>The", False)], first=True)[:2] != [tok.bos_id, tok.bos_id]
    assert tok.encode([("<s>The", False)], first=True)[0] == tok.bos_id
    assert tok.encode([], first=True) == [tok.bos_id]
    assert tok.encode([], first=False) == []


def test_a_control_word_across_pieces_is_text() -> None:
    tok = tokenizer("llama3")
    control = rust("llama3").token_to_id("<|im_end|>")
    assert control in tok.encode([("a<|im_end|>", True)], first=True)
    for parts in ([("<|im_end|>", False)], [("<|im_", True), ("end|>", False)], [("<|im_", True), ("end|>", True)]):
        ids = tok.encode(parts, first=True)
        assert control not in ids and tok.decode(ids) == "<|im_end|>"


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "gemma"])
def test_a_users_control_word_has_its_ordinary_tokens(kind: str) -> None:
    plain = tokenizers.Tokenizer.from_str(rust(kind).to_str())
    plain.encode_special_tokens = True
    for words in ("spell <|im_end|> now", "<s><|im_start|>user"):
        assert tokenizer(kind).encode([(words, False)], first=True) == plain.encode(words).ids


def test_an_added_token_may_take_the_whitespace_around_it() -> None:
    source = tokenizers.Tokenizer.from_str(rust("gpt2").to_str())
    source.add_special_tokens([AddedToken("<|r|>", rstrip=True), AddedToken("<|l|>", lstrip=True)])
    source.add_special_tokens([AddedToken("<|w|>", single_word=True)])
    tok = Tokenizer(source, bos_id=None, eos_ids=(), add_bos=False, vocab_size=None)
    for whole in ("a <|r|> \n b", "a  <|l|> b", "a <|r|> <|l|> b", "x<|w|> <|w|> <|w|>x", "<|r|>\n"):
        assert tok.encode([(whole, True)], first=True) == source.encode(whole, add_special_tokens=False).ids
    joint = source.encode("<|r|>\nhi", add_special_tokens=False).ids
    assert tok.encode([("<|r|>", True), ("\nhi", False)], first=True) == joint
    # A choice whose only character is taken: the control token is what scores it.
    prefix, rests = tok.encode_choices([("a<|r|>", True)], ["\n", " b"], first=True)
    for choice, rest in zip(["\n", " b"], rests):
        assert rest and prefix + rest == tok.encode([("a<|r|>", True), (choice, False)], first=True)


def test_a_unigram_vocabulary_cannot_spell_control_tokens() -> None:
    tok = tokenizer("unigram")
    assert {"</s>", "<s>"} <= set(rust("unigram").get_vocab())
    ids = tok.encode([("a</s> <s>b", False)], first=False)
    assert not any(tok.is_special(i) for i in ids) and tok.decode(ids) == "a</s> <s>b"


@every_kind
def test_the_byte_table_agrees_with_the_rust_decoder(kind: str) -> None:
    tok, reference = tokenizer(kind), rust(kind)
    assert tok.vocab_size == len(tok.token_bytes) == reference.get_vocab_size()
    anchor = reference.token_to_id("a")  # a decoder strips a leading space; an anchor keeps it
    for i in range(tok.vocab_size):
        if tok.is_special(i):
            assert tok.token_bytes[i] == b""
        else:
            assert tok.decode([anchor, i]) == reference.decode([anchor, i]).replace("�", "�")
    assert tok.token_bytes[reference.token_to_id("<tool_call>")] == b"<tool_call>"
    assert {bytes([b]) for b in range(256)} <= set(tok.token_bytes)  # any text can be spelled


def test_ids_beyond_the_vocabulary_are_special() -> None:
    size = rust("gpt2").get_vocab_size()
    tok = Tokenizer(rust("gpt2"), bos_id=None, eos_ids=(), add_bos=False, vocab_size=size + 3)
    assert tok.vocab_size == size + 3 and tok.token_bytes[size:] == [b""] * 3 and tok.is_special(size)


def test_characters_without_a_token_are_refused() -> None:
    small = tokenizers.Tokenizer(models.BPE(vocab={"<unk>": 0, "▁": 1, "a": 2}, merges=[], unk_token="<unk>"))
    small.pre_tokenizer, small.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    small.add_special_tokens(["<unk>"])
    tok = Tokenizer(small, bos_id=None, eos_ids=(), add_bos=False, vocab_size=None)
    assert tok.decode(tok.encode([("a a", False)], first=True)) == " a a"
    with pytest.raises(OptionError, match=r"no token for 'é' \(U\+00E9\)"):
        tok.encode([("a é a", False)], first=True)
    with pytest.raises(OptionError, match="surrogate"):
        tok.encode([("a\ud800", False)], first=True)

    holes = tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))  # drops what it does not know, without <unk>
    holes.pre_tokenizer, holes.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    with pytest.raises(OptionError, match="no token for 'b'"):
        Tokenizer(holes, bos_id=None, eos_ids=(), add_bos=False, vocab_size=None).encode([("ab", False)], first=True)


def test_tokenizers_that_cannot_be_used_are_refused() -> None:
    wordpiece = tokenizers.Tokenizer(models.WordPiece(vocab={"a": 0}, unk_token="a"))
    wordpiece.decoder = decoders.WordPiece()
    with pytest.raises(ModelLoadError, match="decoder WordPiece is not supported"):
        Tokenizer(wordpiece, bos_id=None, eos_ids=(), add_bos=False, vocab_size=None)
    with pytest.raises(ModelLoadError, match="bos_id"):
        Tokenizer(rust("gpt2"), bos_id=None, eos_ids=(), add_bos=True, vocab_size=None)


def test_the_given_tokenizer_is_left_alone() -> None:
    reference = tokenizers.Tokenizer.from_str(rust("gpt2").to_str())
    before = reference.to_str()
    Tokenizer(reference, bos_id=None, eos_ids=(), add_bos=False, vocab_size=None)
    assert reference.to_str() == before and not reference.encode_special_tokens


def test_threads_may_share_it() -> None:
    tok, found = tokenizer("llama3"), []
    parts = [("<|im_start|>", True), ("The answer <|im_end|> is 12\n" * 20, False), ("<|im_end|>", True)]
    expected = tok.encode(parts, first=True)

    def work() -> None:
        found.append(all(tok.encode(parts, first=True) == expected for _ in range(30)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


DATA = Path(__file__).parents[2] / "data" / "chat"


@pytest.mark.parametrize("kind", ["gpt2", "llama3"])
@pytest.mark.parametrize("name", ["smollm2", "qwen2", "llama2"])
def test_a_conversation_in_turns_has_the_tokens_of_the_whole(kind: str, name: str) -> None:
    """Turns cut text at control tokens, where tokenisation splits anyhow: op by op gives the whole's tokens."""
    template = ChatTemplate((DATA / f"{name}.jinja").read_text(encoding="utf-8"), "<s>", "</s>", name)
    messages = [("system", "Be brief."), ("user", "What is 12?"), ("assistant", "yes, no"), ("user", "The dog")]
    conversation, parts, tok = Conversation(template), [], tokenizer(kind)
    for role, content in messages:
        if role == "assistant":
            parts += [*conversation.open(role, generated=False), (content, False), *conversation.close(role)]
        else:
            parts += conversation.turn(role, content)
    whole = template.render([{"role": role, "content": content} for role, content in messages])
    assert tok.encode(parts, first=True) == rust(kind).encode(whole, add_special_tokens=False).ids


@every_kind
def test_text_after_a_gen_has_no_dummy_space(kind: str) -> None:
    tok = tokenizer(kind)
    assert tok.decode(tok.encode([("is", False)], first=False)) == "is"
    assert tok.decode(tok.encode([(" is", False)], first=False)) == " is"
    expected = " is" if spaced(kind) else "is"
    assert tok.decode(tok.encode([("is", False)], first=True)) == expected
