"""Long conversations: what is left out of a rendering changes nothing that is said. The oracle renders all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl.lang.chat import CHATML, ChatTemplate
from sgl.lang.conversation import Conversation
from sgl.lang.errors import OptionError

DATA = Path(__file__).parents[1] / "data" / "chat"
FILES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DATA.glob("*.jinja"))} | {"chatml": CHATML}

LOCAL = {
    "zephyr": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}<|assistant|>\n{% endif %}{% endfor %}",
    "date": "{{ bos_token }}{% set date = strftime_now('%d %b %Y') %}{% for m in messages %}"
    "{% if loop.first %}Today: {{ date }}\n{% endif %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}",
    "merged system": "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}"
    "{% set sys = messages[0].content %}{% else %}{% set rest = messages %}{% set sys = '' %}{% endif %}"
    "{% for m in rest %}"
    "{% if loop.index0 == 0 %}{{ sys }}\n{% endif %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}",
    "eighth": "{% for m in messages %}"
    "{% if loop.index == 8 %}(eighth){% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}",
    "end": "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if messages[-1].role == 'user' and add_generation_prompt %}[assistant]{% endif %}",
    "sized": "{% if messages | length > 6 %}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}",
    "neighbours": "{% for m in messages %}{% if loop.previtem is defined and loop.previtem.role == m.role %}+{% else %}"
    "[{{ m.role }}]{% endif %}{{ m.content }}{% endfor %}",
}
NOT_LOCAL = {
    "counter": "{% set ns = namespace(n=0) %}"
    "{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}:{{ m.content }}\n"
    "{% endfor %}",
    "numbered": "{% for m in messages %}{{ loop.index }}:{{ m.content }}\n{% endfor %}",
    "thirds": "{% for m in messages %}{{ '-' if loop.index0 % 3 == 0 }}{{ m.content }}\n{% endfor %}",
    "size in loop": "{% for m in messages %}{{ m.content }}{{ '!' if loop.index == messages | length and "
    "messages | length % 10 == 0 }}\n{% endfor %}",
    "macro": "{% macro say(m) %}{{ m.role }}: {{ m.content }}\n{% endmacro %}"
    "{% for m in messages %}{{ say(m) }}{% endfor %}",
    "cycle": "{% for m in messages %}{{ loop.cycle('a', 'b', 'c') }}{{ m.content }}{% endfor %}",
    "joiner": "{% set sep = joiner('|') %}{% for m in messages %}{{ sep() }}{{ m.content }}{% endfor %}",
    "slice of slice": "{% if messages[9:][0] is defined %}!{% endif %}"
    "{% for m in messages %}{{ m.content }}\n{% endfor %}",
    "looks at the end": "{% for m in messages %}{{ '!' if messages[-1].role == 'user' }}{{ m.content }}\n{% endfor %}",
    "twice": "{% for m in messages %}{{ m.content }}\n{% endfor %}{% for m in messages %}"
    "{{ '#' if m.role == 'tool' }}{% endfor %}",
    "under the end": "{% set last = messages[-1].role %}{% for m in messages %}{{ last }}{{ m.content }}\n{% endfor %}",
    "filtered": "{% for m in messages if m.role != 'x' %}{{ loop.index0 % 2 }}{{ m.content }}\n{% endfor %}",
    "changed": "{% for m in messages %}{{ '>' if loop.changed(m.role) }}{{ m.content }}{% endfor %}",
}


def transcript(source, roles, contents, whole, written):
    """What a conversation says, turn by turn, or the error that ends it. `whole`: nothing is left out."""
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>", name="t")
    if whole:
        template.__dict__["kept"] = None
    conversation, said = Conversation(template), []
    try:
        for i, (role, content) in enumerate(zip(roles, contents)):
            if role == "assistant" and written[i % len(written)]:
                said += [conversation.open(role), [(content, False)], conversation.close(role)]
            else:
                said.append(conversation.turn(role, content))
    except OptionError as error:
        said.append(str(error).replace(template.prints.nonce, "N"))
    return said


def agree(source, system, turns, contents, written, roles=("user", "assistant")):
    order = ["system"] * system + list(roles) * turns
    texts = [contents[i % len(contents)] + f" {i}" * (i % 3) for i in range(len(order))]
    assert transcript(source, order, texts, False, written) == transcript(source, order, texts, True, written)


@pytest.mark.parametrize("name", [*FILES, *LOCAL, *NOT_LOCAL])
@pytest.mark.parametrize("system", [0, 1])
def test_long_conversations_say_what_the_whole_rendering_says(name, system):
    source = {**FILES, **LOCAL, **NOT_LOCAL}[name]
    agree(source, system, 22, ["one", " two ", "<s>three", "</think> four"], [True, False, True])


@pytest.mark.parametrize("name", [n for n in FILES if n != "qwen3"] + list(LOCAL))
def test_templates_that_are_known(name):
    assert ChatTemplate({**FILES, **LOCAL}[name]).kept is not None


@pytest.mark.parametrize("name", ["qwen3", *NOT_LOCAL])
def test_templates_of_which_nothing_is_known(name):
    assert ChatTemplate({**FILES, **NOT_LOCAL}[name]).kept is None


BEFORE = [
    "", "{{ bos_token }}", "{% if messages[0].role == 'system' %}S{% endif %}", "{% set turns = messages[1:] %}",
    "{% set x = messages[2].role if messages[2] is defined else 'none' %}{{ x if false }}",
    "{% if messages | length > 4 %}{% endif %}", "{% set late = messages[-1].role %}",
    "{% set ns = namespace(n=0) %}", "{% if add_generation_prompt %}{% set g = 1 %}{% endif %}",
]  # fmt: skip
INSIDE = [
    "", "[{{ m.role }}]", "{{ '(even)' if loop.index0 % 2 == 0 }}", "{{ '(first)' if loop.first }}",
    "{% if loop.last %}{{ '(g)' if add_generation_prompt }}{% endif %}", "{{ '9' if loop.index == 9 }}",
    "{{ x }}", "{{ late }}", "{% set ns.n = ns.n + 1 %}", "{{ '4' if ns.n % 4 == 0 }}", "{{ eos_token }}",
    "{% if messages[1].role == m.role %}~{% endif %}", "{{ '.' if loop.index > 5 }}", "{{ loop.index }}",
    "{{ '!' if loop.previtem is defined and loop.previtem.role == 'tool' }}", "{{ '?' if loop.revindex == 3 }}",
    "{% if add_generation_prompt and m.role == 'tool' %}T{% endif %}", "{{ g }}",
]  # fmt: skip
AFTER = [
    "", "{% if add_generation_prompt %}[assistant]{% endif %}", "{{ eos_token }}", "{{ messages[-1].role if false }}",
    "{% for m in messages %}{{ '#' if m.role == 'tool' }}{% endfor %}", "{{ messages | length }}",
]  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.sampled_from(BEFORE), max_size=2), st.lists(st.sampled_from(INSIDE), min_size=1, max_size=3),
    st.lists(st.sampled_from(INSIDE), max_size=2), st.sampled_from(AFTER), st.booleans(), st.integers(0, 1),
    st.sampled_from([("user", "assistant"), ("user", "assistant", "tool", "assistant"), ("user", "user", "assistant")]),
)  # fmt: skip
def test_any_template_says_what_the_whole_rendering_says(before, inside, behind, after, sliced, system, roles):
    over = "turns" if sliced and "{% set turns = messages[1:] %}" in before else "messages"
    body = "".join(inside) + "{{ m.content }}" + "".join(behind)
    source = "".join(before) + "{% for m in " + over + " %}" + body + "\n{% endfor %}" + after
    agree(source, system, 9, ["one", "two"], [True, False], roles)


def test_a_turn_costs_the_same_however_long_the_chat_is(monkeypatch):
    rendered = []
    render = ChatTemplate.render

    def noted(self, messages, *args, **options):
        rendered.append(len(messages))
        return render(self, messages, *args, **options)

    monkeypatch.setattr(ChatTemplate, "render", noted)
    conversation = Conversation(ChatTemplate(CHATML))
    costs = []
    for i in range(200):
        conversation.turn("user", f"question {i}")
        conversation.open("assistant")
        conversation.close("assistant")
        costs.append(sum(rendered))
        rendered.clear()
    assert max(costs[100:]) <= max(costs[20:30]) and max(costs) < 120, "messages rendered a turn"
