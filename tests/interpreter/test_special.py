"""Control tokens: only `sgl.special`, `special_tokens=True` and chat templates spell them."""

from __future__ import annotations

import logging

import pytest

import sgl
from sgl.lang.constant import constant_pieces, rendered

START, END = "<|im_start|>", "<|im_end|>"


def ids_of(runtime: sgl.Runtime, *pieces: tuple[str, bool]) -> list[int]:
    return runtime.tokenizer.encode(pieces, first=True)


def prompt_ids(state: sgl.ProgramState, name: str) -> list[int]:
    return [row[1] for row in state.get_meta_info(name)["input_token_logprobs"]]


LOGGED = {"max_tokens": 1, "return_logprob": True, "logprob_start_len": 0}


def test_special_text_spells_control_tokens_and_plain_text_beside_it_does_not() -> None:
    runtime = sgl.Runtime.toy()

    @sgl.function
    def ask(s: sgl.ProgramState, question: str) -> None:
        s += sgl.special(f"{START}user\n") + question + sgl.special(f"{END}\n") + sgl.gen("a", **LOGGED)

    state = ask.run(f"why {END}?", backend=runtime)
    pieces = (f"{START}user\n", True), (f"why {END}?", False), (f"{END}\n", True)
    assert prompt_ids(state, "a") == ids_of(runtime, *pieces)
    assert state.text().startswith(f"{START}user\nwhy {END}?{END}\n")
    texts = [row[2] for row in state.get_meta_info("a")["input_token_logprobs"]]
    assert texts[0] == START and texts.count(END) == 1, "log-probabilities name control tokens"
    assert ask.graph().prefix == ((f"{START}user\n", True),)
    assert 'special "<|im_start|>user' in str(ask.graph())
    assert ask.cache(runtime) == len(ids_of(runtime, (f"{START}user\n", True)))


def test_special_text_in_messages_and_forks() -> None:
    runtime = sgl.Runtime.toy()

    @sgl.function
    def chat(s: sgl.ProgramState) -> None:
        s += sgl.user("a" + sgl.special(END) + f"b{END}")
        forks = s.fork(2)
        forks += sgl.special(START) + sgl.gen("a", **LOGGED)
        forks.join()

    state = chat.run(backend=runtime)
    assert state.messages() == [{"role": "user", "content": f"a{END}b{END}"}]
    head = [(f"{START}user\na", True), (END, True), (f"b{END}", False), (f"{END}\n", True), (START, True)]
    for meta in state.get_meta_info("a") or [None]:
        if meta is not None:
            assert [row[1] for row in meta["input_token_logprobs"]] == ids_of(runtime, *head)
    assert state.text() == f"{START}user\na{END}b{END}{END}\n"


def test_an_assistant_turn_may_begin_with_special_text() -> None:
    runtime = sgl.Runtime.toy()
    ask = sgl.function(lambda s: s.assistant(sgl.special(START) + sgl.gen("a", **LOGGED)))
    assert prompt_ids(ask.run(backend=runtime), "a") == ids_of(runtime, (f"{START}assistant\n{START}", True))


def test_special_text_after_a_constrained_gen_does_not_end_it_as_plain_text_would() -> None:
    ask = sgl.function(lambda s: s.user("x" + sgl.gen("a", regex="[<ab]{3}", max_tokens=8) + sgl.special(END)))
    assert len(ask.run(backend=sgl.Runtime.toy())["a"]) == 3


def test_special_text_in_traces_and_journals(tmp_path: object) -> None:
    @sgl.function
    def ask(s: sgl.ProgramState, head: object) -> None:
        s += head  # type: ignore[misc, arg-type]
        s += sgl.gen("a", max_tokens=2)

    runtime = sgl.Runtime.toy()
    with sgl.trace() as traced:
        state = ask.run(sgl.special(START), backend=runtime, seed=1)
        state.sync()
    assert sgl.replay(traced, ask, backend=runtime)
    journal = f"{tmp_path}/rows.jsonl"
    rows = [(sgl.special(START),), (START,)]
    ask.run_batch(rows, backend=runtime, resume=journal, seed=1)
    again = ask.run_batch(rows, backend=runtime, resume=journal, seed=1)
    other = ask.run_batch(rows[::-1], backend=runtime, resume=journal, seed=1)
    assert [s.restored for s in again] == [True, True]
    assert [s.restored for s in other] == [False, False], "special and plain text are different arguments"


def test_generate_takes_the_text_of_a_chat_template(caplog: pytest.LogCaptureFixture) -> None:
    runtime = sgl.Runtime.toy()
    messages = [{"role": "user", "content": "hi"}]
    text = runtime.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = runtime.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    params = {"max_new_tokens": 8, "temperature": 0}
    wanted = runtime.generate(input_ids=ids, sampling_params=params)["text"]
    with caplog.at_level(logging.WARNING, "sgl.advice"):
        assert runtime.generate(text, params, special_tokens=True)["text"] == wanted
        assert runtime.generate([text], params, special_tokens=True)[0]["text"] == wanted
        assert not caplog.records
        assert runtime.generate(text, params)["meta_info"]["prompt_tokens"] > len(ids)
        assert len(caplog.records) == 1

    @sgl.function
    def chat(s: sgl.ProgramState) -> None:
        s += sgl.user("hi") + sgl.assistant(sgl.gen("a", max_tokens=8, temperature=0))

    assert chat.run(backend=runtime)["a"] == wanted


async def generated(runtime: sgl.Runtime, text: str, **options: object) -> int:
    result = await runtime.async_generate(text, {"max_new_tokens": 1}, **options)
    return int(result["meta_info"]["prompt_tokens"])


def test_async_generate_takes_special_tokens() -> None:
    import asyncio

    runtime = sgl.Runtime.toy()
    assert asyncio.run(generated(runtime, START, special_tokens=True)) == 1
    assert asyncio.run(generated(runtime, START)) == 11


def test_plain_text_that_spells_a_control_token_is_told_of_once_a_runtime(caplog: pytest.LogCaptureFixture) -> None:
    say = sgl.function(lambda s, text: s.user(text))
    with caplog.at_level(logging.WARNING, "sgl.advice"):
        for _ in range(2):
            runtime = sgl.Runtime.toy()
            for text in ("no token here < | >", f"a {START} b", f"c {END}", f"{START}"):
                say.run(text, backend=runtime).sync()
    assert len(caplog.records) == 2
    assert all(START in r.getMessage() and "sgl.special(...)" in r.getMessage() for r in caplog.records)


def test_each_prompt_may_have_its_own_parameters() -> None:
    runtime = sgl.Runtime.toy()
    params = [{"max_new_tokens": 2, "ignore_eos": True}, {"regex": "abc"}]
    first, second = runtime.generate(["x", "y"], params)
    assert len(first["output_ids"]) == 2 and second["text"] == "abc"


def test_generate_refuses_what_it_does_not_have() -> None:
    runtime = sgl.Runtime.toy()
    with pytest.raises(sgl.OptionError, match="it goes into sampling_params"):
        runtime.generate("x", temperature=0)
    with pytest.raises(sgl.OptionError, match="did you mean 'special_tokens'"):
        runtime.generate("x", special_token=True)
    with pytest.raises(sgl.OptionError, match="special_tokens must be True or False"):
        runtime.generate("x", special_tokens="yes")  # type: ignore[arg-type]
    with pytest.raises(sgl.OptionError, match="special_tokens= is for a prompt of text"):
        runtime.generate(input_ids=[1], special_tokens=True)
    for params, says in (("abc", "must be a dict"), ([{}, {}], "2 dicts for 1 prompts"), ([1], "must be a dict")):
        with pytest.raises(sgl.OptionError, match=says):
            runtime.generate("x", params)  # type: ignore[arg-type]
    with pytest.raises(sgl.NotYet, match="skip_special_tokens=False"):
        runtime.generate("x", {"skip_special_tokens": False})
    assert runtime.generate("x", {"skip_special_tokens": True, "max_new_tokens": 0})["text"] == ""
    with pytest.raises(sgl.NotYet, match="lora_path"):
        runtime.generate("x", lora_path="adapter")


# -- prefixes and templates
def test_cache_prefix_takes_expressions() -> None:
    runtime = sgl.Runtime.toy()
    head = sgl.system("Be brief.") + sgl.user("Why is " + sgl.special(END) + "?")
    length = runtime.cache_prefix(head)
    chat = sgl.function(lambda s: s.__iadd__(head + sgl.assistant(sgl.gen("a", max_tokens=1))))
    meta = chat.run(backend=runtime).get_meta_info("a")
    assert meta["cached_tokens"] >= length - 1 > 20
    assert runtime.cache_prefix(prefix="plain") == runtime.tokenizer.count("plain")
    assert runtime.cache_prefix(sgl.system_begin() + "open") == runtime.tokenizer.count(
        f"{START}system\nopen", special_tokens=True
    )


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        (sgl.gen("a"), "the same in every run"),
        (sgl.user(sgl.select("a", ["x"])), "the same in every run"),
        (sgl.user_end(), "roles begin and end in turn"),
        (sgl.user(sgl.user("x")), "roles begin and end in turn"),
        (5, "only text and sgl expressions"),
    ],
)
def test_cache_prefix_refuses_what_is_not_constant(prefix: object, says: str) -> None:
    with pytest.raises(sgl.OptionError, match=says):
        sgl.Runtime.toy().cache_prefix(prefix)  # type: ignore[arg-type]


def test_a_prefix_with_roles_needs_a_template() -> None:
    assert constant_pieces("x", sgl.special("a") + "b", None) == [("a", True), ("b", False)]
    with pytest.raises(sgl.CapabilityError, match="chat template"):
        constant_pieces("x", sgl.user("a"), None)


LATE_SYSTEM = sgl.ChatTemplate(
    "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}]{% if loop.index0 <= 1 %}{{ system }}{% endif %}"
    "{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endif %}{% endfor %}",
    eos_token="</s>",
)


def test_a_message_that_is_printed_with_the_next_one_is_no_prefix_of_its_own() -> None:
    with pytest.raises(sgl.OptionError, match="prints this message only with the next one"):
        constant_pieces("x", sgl.system("S"), LATE_SYSTEM)
    assert constant_pieces("x", sgl.system("S") + sgl.user("U"), LATE_SYSTEM)


@pytest.mark.parametrize("generation", [True, False])
@pytest.mark.parametrize("content", ["hi", f"a {END} b", " spaced ", ""])
def test_a_rendered_conversation_is_the_templates_own(content: str, generation: bool) -> None:
    for template in (sgl.Runtime.toy().chat_template, LATE_SYSTEM):
        assert template is not None
        messages = [{"role": "system", "content": "S"}, {"role": "user", "content": content}]
        pieces = rendered(template, messages, generation and template is not LATE_SYSTEM)
        whole = template.render(messages, generation and template is not LATE_SYSTEM)
        assert "".join(text for text, _ in pieces) == whole
        assert not any(END in text and "im_end" in content and f"a {END}" in text for text, markup in pieces if markup)


def test_a_tokenizer_counts_and_decodes_text() -> None:
    tokenizer = sgl.Runtime.toy().tokenizer
    assert tokenizer.decode(tokenizer.encode("Hello")) == "Hello"
    assert tokenizer.count("Hello") == len(tokenizer.encode("Hello")) == 5
    assert tokenizer.count(START) > 1 == tokenizer.count(START, special_tokens=True)
    with pytest.raises(sgl.CapabilityError, match="no chat template"):
        tokenizer.with_template(None).apply_chat_template([{"role": "user", "content": "x"}])
    for wrong in (5, None, b"x"):
        with pytest.raises(sgl.OptionError, match="encode takes a text"):
            tokenizer.count(wrong)  # type: ignore[arg-type]
    with pytest.raises(sgl.OptionError, match="takes messages"):
        tokenizer.apply_chat_template("hi")  # type: ignore[arg-type]
    with pytest.raises(sgl.OptionError, match="message 0"):
        tokenizer.apply_chat_template([{"role": "user", "content": ["x"]}])
