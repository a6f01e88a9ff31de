"""Templates that want years, gigabytes or Python's attributes: an `OptionError` that names the template."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from sgl.lang.chat import ChatTemplate
from sgl.lang.errors import OptionError

HOSTILE = [
    "{{ 'a' * 10**10 }}",
    "{{ 10**10 * 'a' }}",
    "{{ [1] * 10**9 }}",
    "{{ 10 ** (10 ** 10) }}",
    "{% set n = namespace(a=3) %}{% for i in range(99) %}{% set n.a = n.a * n.a %}{% endfor %}",
    "{% set n = namespace(a='ab') %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "{% set n = namespace(a='ab') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    "{% set n = namespace(a=[1]) %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "{% set n = namespace(a='ab') %}{% for i in range(99) %}{% set n.a = n.a.replace('a', n.a) %}{% endfor %}",
    "{% set n = namespace(a='ab') %}{% for i in range(99) %}{% set n.a = n.a | replace('a', n.a) %}{% endfor %}",
    "{% set n = namespace(a='ab') %}{% for i in range(99) %}{% set n.a = n.a.join([n.a, n.a, n.a]) %}{% endfor %}",
    "{% set n = namespace(a='ab') %}{% for i in range(99) %}{% set x %}{{ n.a }}{{ n.a }}{% endset %}"
    "{% set n.a = x %}{% endfor %}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
    "{% for i in range(90000) %}{% set x = range(90000) | list %}{% endfor %}",
    "{% for x in [1, 2] recursive %}{% if loop.depth < 90 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%.1000000000f' % 1.5 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:1000000000d}'.format(1) }}",
    "{{ '{:{}}'.format(1, 1000000000) }}",
    "{{ 'a'.ljust(10**10) }}",
    "{{ 'a'.zfill(10**10) }}",
    "{{ 'a\t'.expandtabs(10**10) }}",
    "{{ 'a' | center(10**10) }}",
    "{{ ['a'] | map('center', 10**10) | list }}",
    "{{ 'a\nb' | indent(10**10) }}",
    "{{ messages | tojson(indent=10**9) }}",
    "{{ 1.5 | round(10**9, 'ceil') }}",
    "{{ [1] | batch(10**9, 0) | list }}",
    "{{ lipsum(n=10**6) }}",
    "{{ strftime_now('%1000000000d') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{{ raise_exception.__globals__['os'].system('true') }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "x" * (1 << 21),
]


@pytest.mark.parametrize("source", HOSTILE, ids=lambda source: source[:60])
def test_a_hostile_template_is_refused_by_name(source: str) -> None:
    template = ChatTemplate(source, name="model X")
    began = time.process_time()
    with pytest.raises(OptionError, match="model X"):
        template.render([{"role": "user", "content": "hi"}])
    assert time.process_time() - began < 60  # not a measure of speed: without the bounds it never ends


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}", "1/2,2/2"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{{ loop.length }}{% endfor %}", "a1"),
        ("{% for m in messages | map(attribute='content') %}{{ m }}{{ loop.last }}{% endfor %}", "aFalsebTrue"),
        ("{% for k, v in {'x': 1}.items() %}{{ k ~ v ~ none }}{% endfor %}", "x1None"),
        ("{% for m in nothing %}x{% else %}none{% endfor %}", "none"),
        ("{{ 'a' * 3 + 'b' }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ '%05d' % 3 }}{{ '{:>4}'.format('x') }}", "aaab1024300003   x"),
        ("{{ messages[0].content.replace('a', 'bb') }}{{ ', '.join(['x', 'y']) }}", "bbx, y"),
        (
            "{% set n = namespace(t='') %}{% for m in messages %}{% set n.t = n.t + m.content %}{% endfor %}{{ n.t }}",
            "ab",
        ),
        ("{{ messages[0] | tojson(indent=2) }}", '{\n  "role": "user",\n  "content": "a"\n}'),
    ],
)
def test_honest_templates_print_what_they_should(source: str, text: str) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert ChatTemplate(source).render(messages) == text


def test_the_time_is_still_told() -> None:
    assert ChatTemplate("{{ strftime_now('%Y') }}").render([]) == f"{datetime.now():%Y}"
