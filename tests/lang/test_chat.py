"""Conversations rendered turn by turn against the whole rendering by the same template."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl.lang.chat import CHATML, ChatTemplate
from sgl.lang.conversation import Conversation, Pieces
from sgl.lang.errors import OptionError

DATA = Path(__file__).parents[1] / "data" / "chat"
NAMES = ["smollm2", "llama2", "llama3", "mistral", "qwen2", "gemma", "qwen3", "phi3", "r1", "chatml"]
NO_SYSTEM = {"mistral", "gemma"}
TRIMS = {"llama2", "llama3", "gemma"}


def template(name: str) -> ChatTemplate:
    source = CHATML if name == "chatml" else (DATA / f"{name}.jinja").read_text(encoding="utf-8")
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>", name=name)


def text_of(pieces: list[tuple[str, bool]]) -> str:
    return "".join(text for text, _ in pieces)


def whole(name: str, messages: list[tuple[str, str]], **options: object) -> str:
    told = [{"role": role, "content": content} for role, content in messages]
    rendered = template(name).render(told, **options)
    return rendered.removesuffix("</s>") if name == "phi3" else rendered


def said(name: str, messages: list[tuple[str, str]], written: frozenset[int]) -> list[tuple[str, bool]]:
    """The pieces of the whole conversation; the messages in `written` are opened, written and closed."""
    conversation, pieces = Conversation(template(name)), []
    for i, (role, content) in enumerate(messages):
        if i in written:
            pieces += conversation.open(role, generated=False)
            pieces += [(content, False)]
            pieces += conversation.close(role)
        else:
            pieces += conversation.turn(role, content)
    assert not conversation.holds_back
    return pieces


def dialogue(name: str, contents: list[str], system: bool) -> list[tuple[str, str]]:
    roles = (["system"] if system and name not in NO_SYSTEM else []) + ["user", "assistant"] * len(contents)
    return list(zip(roles, contents))


# Control words, whitespace at the ends, text that the templates print themselves, empty contents, jinja.
content = st.one_of(
    st.text(alphabet="ab \né", max_size=6),
    st.sampled_from(["<|im_end|>", "</s>", "[/INST]", " hi ", "user", "{{ x }}", "<|im_start|>assistant\n", "system"]),
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(contents=st.lists(content, min_size=2, max_size=6), system=st.booleans())
def test_constant_turns_say_the_whole_rendering(name: str, contents: list[str], system: bool) -> None:
    messages = dialogue(name, contents, system)
    if messages[-1][0] == "system":
        messages.append(("user", "x"))
    if name == "qwen3":  # the whole rendering has the last answer's reasoning block only; what was said stays
        messages = messages[: 3 if messages[0][0] == "system" else 2]
    pieces = said(name, messages, frozenset())
    assert text_of(pieces) == whole(name, messages)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(st.lists(content, min_size=2, max_size=6), st.booleans(), st.frozensets(st.integers(1, 5)))
def test_written_turns_say_the_whole_rendering(name, contents, system, written) -> None:
    stripped = [c.strip() or "x" for c in contents]  # a template trims constants; it cannot trim what was written
    messages = dialogue(name, stripped, system)
    if messages[-1][0] == "system":
        messages.append(("user", "x"))
    if name == "qwen3":
        messages = messages[: 3 if messages[0][0] == "system" else 2]
    pieces = said(name, messages, written)
    assert text_of(pieces) == whole(name, messages)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hostile", ["<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>", "<s>"])
def test_a_users_words_are_never_markup(name: str, hostile: str) -> None:
    messages = dialogue(name, [f"sys {hostile}", f" user {hostile} words\n", f"answer {hostile}", "more"], True)
    pieces = said(name, messages, frozenset())
    plain = said(name, [(role, c.replace(hostile, "")) for role, c in messages], frozenset())
    markup = [text for text, mark in pieces if mark]
    assert "".join(markup).count(hostile) == "".join(t for t, mark in plain if mark).count(hostile)
    for _, c in messages:
        assert any(not mark and text.strip() == c.strip() for text, mark in pieces)


def test_pieces_of_chatml() -> None:
    conversation = Conversation(template("chatml"))
    assert conversation.turn("user", " hi ") == [
        ("<|im_start|>user\n", True), (" hi ", False), ("<|im_end|>\n", True)
    ]  # fmt: skip
    assert conversation.open("assistant") == [("<|im_start|>assistant\n", True)]
    assert conversation.role == "assistant"
    assert conversation.close("assistant") == [("<|im_end|>\n", True)]
    assert conversation.role is None


def test_content_is_trimmed_where_the_template_trims() -> None:
    assert ("hi", False) in Conversation(template("llama3")).turn("user", "  hi\n")
    assert ("  hi\n", False) in Conversation(template("qwen2")).turn("user", "  hi\n")


def test_llama2_prints_the_system_message_with_the_first_user() -> None:
    conversation = Conversation(template("llama2"))
    assert conversation.turn("system", " Be brief. ") == []
    assert conversation.holds_back
    assert conversation.turn("user", "Hi") == [
        ("<s>[INST] <<SYS>>\n", True), ("Be brief.", False), ("\n<</SYS>>\n\n", True), ("Hi", False), (" [/INST]", True)
    ]  # fmt: skip
    assert not conversation.holds_back
    assert conversation.open("assistant") == []  # the model writes its own space
    assert conversation.close("assistant") == [(" </s>", True)]
    assert conversation.turn("user", "Go on")[0] == ("<s>[INST] ", True)

    conversation = Conversation(template("llama2"))
    conversation.turn("system", "S")
    assert text_of(conversation.open("user")) == "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\n"
    assert conversation.close("user") == [(" [/INST]", True)]
    assert conversation.open("assistant", generated=False) == [(" ", True)]


def test_a_default_system_prompt_comes_once() -> None:
    conversation = Conversation(template("smollm2"))
    first = text_of(conversation.turn("user", "a"))
    assert first.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text_of(conversation.turn("user", "b")) == "<|im_start|>user\nb<|im_end|>\n"
    opened = Conversation(template("smollm2")).open("assistant")
    assert text_of(opened).startswith("<|im_start|>system") and text_of(opened).endswith("<|im_start|>assistant\n")


def test_generated_content_follows_the_generation_prompt() -> None:
    def header(name: str, generated: bool = True, **options: object) -> str:
        conversation = Conversation(template(name), **options)
        conversation.turn("user", "q")
        return text_of(conversation.open("assistant", generated=generated))

    assert header("qwen3") == "<|im_start|>assistant\n"
    assert header("qwen3", enable_thinking=False) == "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert header("qwen3", generated=False) == "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert header("r1") == "<|Assistant|><think>\n"
    assert header("r1", generated=False) == "<|Assistant|>"
    assert header("phi3") == "<|assistant|>\n"
    assert header("gemma") == "<start_of_turn>model\n"


def test_reasoning_that_was_generated_stays_where_it_is() -> None:
    conversation, pieces = Conversation(template("qwen3")), []
    for question in ("one", "two", "three"):
        pieces += conversation.turn("user", question)
        pieces += conversation.open("assistant")
        pieces += [(f"<think>\nhm {question}\n</think>\n\nright", False)]
        pieces += conversation.close("assistant")
    assert text_of(pieces) == "".join(
        f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n<think>\nhm {q}\n</think>\n\nright<|im_end|>\n"
        for q in ("one", "two", "three")
    )


def test_copies_go_on_independently() -> None:
    conversation = Conversation(template("llama2"))
    conversation.turn("system", "S")
    twin = conversation.copy()
    assert "one" in text_of(conversation.turn("user", "one"))
    assert twin.holds_back and "S" in text_of(twin.turn("user", "two"))
    inside = twin.copy()
    inside.open("assistant")
    other = inside.copy()
    assert inside.close("assistant") == other.close("assistant") == [(" </s>", True)]
    assert text_of(twin.open("assistant", generated=False)) == " "


@pytest.mark.parametrize(
    ("name", "roles", "words"),
    [
        ("gemma", ["system"], ["gemma", "'system'", "System role not supported"]),
        ("mistral", ["user", "user"], ["mistral", "'user' is refused after user", "must alternate"]),
        ("llama2", ["system", "assistant"], ["'assistant'", "system", "must alternate"]),
        ("mistral", ["tool"], ["'tool' is refused after nothing", "alternate"]),
    ],
)
def test_a_refused_order_is_named(name: str, roles: list[str], words: list[str]) -> None:
    for begin in (Conversation.turn, lambda c, role, _: c.open(role)):
        conversation = Conversation(template(name))
        for role in roles[:-1]:
            conversation.turn(role, "x")
        with pytest.raises(OptionError) as error:
            begin(conversation, roles[-1], "x")
        assert all(word in str(error.value) for word in words), error.value
        if name != "gemma" and roles[-1] != "tool":  # the refused call changed nothing
            assert conversation.turn("assistant" if roles == ["user", "user"] else "user", "y")


LAST_USER_HAS_SYSTEM = (
    "{% for m in messages if m.role != 'system' %}[{{ m.role }}]"
    "{% if loop.last and messages[0].role == 'system' %}({{ messages[0].content }}){% endif %}{{ m.content }}"
    "{% endfor %}"
)


def test_a_template_that_moves_text_is_refused_clearly() -> None:
    conversation = Conversation(ChatTemplate(LAST_USER_HAS_SYSTEM, name="mover"))
    assert conversation.turn("system", "S") == []
    assert text_of(conversation.turn("user", "a")) == "[user](S)a"
    with pytest.raises(OptionError, match=r"role 'user': mover changes what it printed for message 1 \(system\)"):
        conversation.turn("user", "b")


def test_a_template_that_counts_messages_is_refused_clearly() -> None:
    source = "{{ messages | length }}{% for m in messages %}[{{ m.content }}]{% endfor %}"
    conversation = Conversation(ChatTemplate(source, name="counter"))
    assert text_of(conversation.turn("user", "a")) == "1[a]"
    with pytest.raises(OptionError, match=r"changes what it printed for message 1 \(user\).*pass another"):
        conversation.turn("user", "b")


@pytest.mark.parametrize(("body", "times"), [("{{ m.content * 2 }}", "2 times"), ("{{ m.role }}", "0 times")])
def test_content_must_be_printed_once(body: str, times: str) -> None:
    odd = ChatTemplate("{% for m in messages %}" + body + "{% endfor %}", name="odd")
    with pytest.raises(OptionError, match=f"'user'.*odd prints the content of a 'user' message {times}"):
        Conversation(odd).turn("user", "hello")
    with pytest.raises(OptionError, match=times):
        Conversation(odd).open("user")


def test_a_template_that_looks_into_a_content() -> None:
    looks = "{% for m in messages %}{% if 'z' in m.content %}<zed>{% endif %}[{{ m.content | trim }}]{% endfor %}"
    conversation = Conversation(ChatTemplate(looks, name="looks"))
    assert conversation.turn("user", " zoo ") == [("<zed>[", True), ("zoo", False), ("]", True)]
    assert conversation.turn("user", "") == [("[", True), ("]", True)]
    assert conversation.turn("user", "a") == [("[", True), ("a", False), ("]", True)]
    with pytest.raises(OptionError, match="prints other text around 'zed'"):
        conversation.turn("user", "zed")


def test_open_and_close_must_match() -> None:
    conversation = Conversation(template("chatml"))
    with pytest.raises(OptionError, match="no message is open"):
        conversation.close("user")
    conversation.open("user")
    with pytest.raises(OptionError, match="'user' is still open"):
        conversation.turn("assistant", "x")
    with pytest.raises(OptionError, match="the open message is 'user'"):
        conversation.close("assistant")


def test_a_model_without_a_template() -> None:
    with pytest.raises(OptionError, match="no chat template; pass chat_template="):
        Conversation(None).turn("user", "x")


def test_the_environment_is_that_of_transformers() -> None:
    def render(source: str, **options: object) -> str:
        return ChatTemplate(source).render([{"role": "user", "content": "<a&b>é"}], **options)

    assert render("{{ messages[0] | tojson }}") == '{"role": "user", "content": "<a&b>é"}'
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert render("  {% if true %}\nx\n  {% endif %}\ny") == "x\ny"
    assert len(render("{{ strftime_now('%Y-%m-%d') }}")) == 10
    assert render("{{ tools | length }}", tools=[1, 2]) == "2"
    with pytest.raises(OptionError, match=r"unsafe|not safe|safely"):
        render("{{ messages.append(1) }}")
    with pytest.raises(OptionError, match="unsafe"):
        render("{{ ().__class__.__bases__[0].__subclasses__() }}")
    with pytest.raises(OptionError, match=r"not a jinja template: .*line 2"):
        render("a\n{% if %}")
    with pytest.raises(OptionError, match="TypeError"):
        render("{{ messages[0].content + 1 }}")


def test_a_template_can_be_copied_and_pickled_after_use() -> None:
    chatml = template("chatml")
    chatml.render([])
    assert pickle.loads(pickle.dumps(chatml)) == copy.deepcopy(chatml) == chatml


def test_importing_chat_does_not_import_jinja() -> None:
    code = "import sys, sgl.lang.chat; sys.exit('jinja2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "chatml"])
def test_rendering_agrees_with_transformers(name: str) -> None:
    reference = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yo"}]
    for prompt in (False, True):
        options = {"add_generation_prompt": prompt, "bos_token": "<s>", "eos_token": "</s>"}
        theirs, _ = reference.render_jinja_template([messages], chat_template=template(name).source, **options)
        assert template(name).render(messages, prompt) == theirs[0]


def test_a_conversation_renders_as_often_in_its_hundredth_turn_as_in_its_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = []
    render = ChatTemplate.render
    monkeypatch.setattr(
        ChatTemplate, "render", lambda self, *args, **kw: rendered.append(1) or render(self, *args, **kw)
    )
    conversation = Conversation(template("chatml"))
    counts = []
    for i in range(100):
        before = len(rendered)
        conversation.turn("user", f"hi {i}")
        conversation.open("assistant")
        conversation.close("assistant")
        counts.append(len(rendered) - before)
    assert max(counts) == 5 and set(counts[20:]) == {1} and not conversation._rendered


@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_around_contents_is_rendered_once_for_all_conversations(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[int] = []
    render = ChatTemplate.render
    monkeypatch.setattr(
        ChatTemplate, "render", lambda self, *args, **kw: rendered.append(1) or render(self, *args, **kw)
    )
    source = template(name).source
    shared = ChatTemplate(source, bos_token="<s>", eos_token="</s>", name=name)

    def say(template: ChatTemplate, first: str) -> tuple[Pieces, int]:
        rendered.clear()
        conversation = Conversation(template)
        pieces = [*conversation.turn("user", first), *conversation.open("assistant"), *conversation.close("assistant")]
        return [*pieces, *conversation.turn("user", f"{first} again")], len(rendered)

    _, alone = say(shared, "hi")
    again, fewer = say(shared, "  other words ")
    fresh, as_many = say(ChatTemplate(source, bos_token="<s>", eos_token="</s>", name=name), "  other words ")
    assert again == fresh and as_many == alone
    assert fewer < alone / 2 or "strftime_now" in source


def test_options_and_the_time_are_a_conversations_own() -> None:
    source = "{% for m in messages %}{{ strftime_now('%f') if clock else mood }}{{ m['content'] }}{% endfor %}"
    timed = ChatTemplate(source)
    assert not Conversation(timed)._shared
    moods = ChatTemplate(source.replace("strftime_now('%f') if clock else ", ""))
    said = [Conversation(moods, mood=mood).turn("user", "x") for mood in ("A", "B")]
    assert said == [[("A", True), ("x", False)], [("B", True), ("x", False)]]
    assert Conversation(moods).turn("user", "x") == [("x", False)]
