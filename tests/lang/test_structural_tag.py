"""Structural tags read into constraints, beside xgrammar's own reading of them: the same texts, refusals by place."""

from __future__ import annotations

import json
from typing import Any

import pytest
import xgrammar
from hypothesis import given, settings
from hypothesis import strategies as st
from xgrammar.testing import _is_grammar_accept_string as xgrammar_accepts

import sgl

INTEGER = {"type": "json_schema", "json_schema": {"type": "integer"}}
ANY = {"type": "any_text"}


def const(text: str) -> dict[str, Any]:
    return {"type": "const_string", "value": text}


def tag(begin: str, content: Any, end: Any) -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def sequence(*elements: Any) -> dict[str, Any]:
    return {"type": "sequence", "elements": list(elements)}


TAGS = {
    "triggered_tags": {
        "type": "triggered_tags",
        "triggers": ["<f"],
        "tags": [tag("<f1>", INTEGER, "</f>"), tag("<f2>", INTEGER, "</f>")],
    },
    "tags_with_separator": {
        "type": "tags_with_separator",
        "separator": ",",
        "tags": [tag("<f1>", INTEGER, "</f>"), tag("<f2>", INTEGER, "</f>")],
    },
}
FLAGS = [{}, {"at_least_one": True}, {"stop_after_first": True}, {"at_least_one": True, "stop_after_first": True}]

FORMATS: dict[str, dict[str, Any]] = {
    **{f"{name} {flags}": {**TAGS[name], **flags} for name in TAGS for flags in map(dict, FLAGS)},
    "excludes": {**TAGS["triggered_tags"], "excludes": ["x"]},
    "two triggers": {
        "type": "triggered_tags",
        "triggers": ["<f1", "<f2"],
        "tags": [tag("<f1>", INTEGER, "</f>"), tag("<f2>", const("x"), "</f>")],
    },
    "in a tag": tag("<f1>", TAGS["triggered_tags"], "x"),
    "any text": {"type": "any_text", "excludes": ["<f1>"]},
    "some characters": {"type": "any_text", "max_chars": 2},
    "tag of any text": tag("<f1>", ANY, "</f>"),
    "tag of two ends": tag("<f1>", ANY, ["</f>", "x"]),
    "tag of a sequence": tag("<f1>", sequence(const("1"), ANY), "</f>"),
    "tag of a choice": tag("<f1>", {"type": "or", "elements": [const("1"), ANY]}, "</f>"),
    "text behind any text": sequence(ANY, const("</f>")),
    "dispatch": {"type": "dispatch", "rules": [["<f1", const(">")], ["<f2", const(">1")]], "excludes": ["x"]},
    "dispatch once": {"type": "dispatch", "rules": [["<f1", const(">")]], "loop": False},
    "optional": {"type": "optional", "content": const("<f1>")},
    "plus": {"type": "plus", "content": const("<f1>")},
    "star": {"type": "star", "content": const("<f1>")},
    "repeat": {"type": "repeat", "min": 1, "max": 2, "content": const("<f1>")},
    "repeat without bound": {"type": "repeat", "min": 2, "max": -1, "content": const("<f1>")},
    "never": {"type": "repeat", "min": 0, "max": 0, "content": const("<f1>")},
    "regex": {"type": "regex", "pattern": "(<f1>)+1?"},
    "grammar": {"type": "grammar", "grammar": 'root ::= "<f1>" root | "1"'},
    "a grammar among others": sequence({"type": "grammar", "grammar": 'root ::= "<f1>" root | "1"'}, INTEGER),
    "reasoning, then tags": sequence(tag("<f1>", ANY, "</f>"), TAGS["triggered_tags"]),
}
PIECES = ["<f1>", "<f2>", "</f>", "<f", "<", "1", "12", "x", ",", ">", "-3", "é"]


@pytest.fixture(scope="module")
def runtime() -> Any:
    with sgl.Runtime.toy() as made:
        yield made


def read(form: dict[str, Any]) -> Any:
    return sgl.structural_tag({"type": "structural_tag", "format": form})


@pytest.mark.parametrize("name", FORMATS)
def test_the_masks_take_the_texts_that_xgrammar_takes(name: str, runtime: Any) -> None:
    form = FORMATS[name]
    theirs = xgrammar.Grammar.from_structural_tag({"type": "structural_tag", "format": form})
    ours = read(form)
    known = {"": 0, "taken": 0}

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(st.lists(st.sampled_from(PIECES), max_size=7).map("".join))
    def agree(text: str) -> None:
        wanted = xgrammar_accepts(theirs, text)
        verdict = runtime.accepts(ours, text)
        assert verdict.ok == wanted, (text, verdict)
        known["taken" if wanted else ""] += 1

    agree()
    for text in (
        "",
        "<f1>x",
        "<f1><f1>",
        "<f1><f1>1</f>x",
        "1",
        "<f1>",
        "<f1>1",
        "<f1></f>",
        "<f1>1</f>",
        "x<f2>1</f>x",
        "<f1>1</f>,<f2>2</f>",
        "<f1><f1>1",
        "1</f>",
    ):
        wanted = xgrammar_accepts(theirs, text)
        assert runtime.accepts(ours, text).ok == wanted, text
        known["taken" if wanted else ""] += 1
    assert known["taken"] and known[""]


OBJECT = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "kind": {"type": "string", "enum": ["a b", "c"]},
        "more": {"type": "array", "items": {"type": "number"}},
    },
    "required": ["name"],
}


@pytest.mark.parametrize("style", ["qwen_xml", "minimax_xml", "glm_xml", "deepseek_xml", "deepseek_v4_1_xml"])
def test_what_is_written_in_an_xml_style_is_taken_by_xgrammar(style: str, runtime: Any) -> None:
    form = {"type": "json_schema", "json_schema": OBJECT, "style": style}
    theirs = xgrammar.Grammar.from_structural_tag({"type": "structural_tag", "format": form})

    @sgl.function
    def program(s: Any) -> None:
        s += "x" + sgl.gen("x", structural_tag={"type": "structural_tag", "format": form}, max_tokens=250)

    texts = {program.run(backend=runtime, seed=seed)["x"] for seed in range(8)}
    assert len(texts) > 1
    for text in texts:
        assert xgrammar_accepts(theirs, text), text


def test_xml_parameters_have_values_of_their_types(runtime: Any) -> None:
    ours = read({"type": "qwen_xml_parameter", "json_schema": OBJECT})
    right = "<parameter=name>\nBob <b>\n</parameter>\n<parameter=age>\n4\n</parameter>\n<parameter=kind>a b</parameter>"
    assert runtime.accepts(ours, right)
    assert not runtime.accepts(ours, right.replace("4", "four"))
    assert not runtime.accepts(ours, right.replace("a b", "b"))
    assert not runtime.accepts(ours, right.partition("\n<parameter=age")[2])


def test_both_forms_and_their_spellings_are_one_constraint() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    old = {
        "type": "structural_tag",
        "structures": [{"begin": "<f=a>", "schema": schema, "end": "</f>"}],
        "triggers": ["<f="],
    }
    content = {"type": "json_schema", "json_schema": schema}
    form = {"type": "triggered_tags", "triggers": ["<f="], "tags": [tag("<f=a>", content, "</f>")]}
    new = {"type": "structural_tag", "format": form}
    wanted = sgl.structural_tag(new)
    assert sgl.structural_tag(old) == wanted
    assert sgl.structural_tag(json.dumps(old)) == wanted
    assert sgl.structural_tag(json.dumps(new)) == wanted
    assert sgl.structural_tag(xgrammar.StructuralTag.model_validate(new)) == wanted
    assert sgl.structural_tag({**old, "structures": [{**old["structures"][0], "schema": json.dumps(schema)}]}) == wanted
    assert sgl.gen("x", structural_tag=old).constraint == wanted  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("form", "where"),
    [
        ({"type": "any_txt"}, "/format: unknown type 'any_txt'; did you mean 'any_text'"),
        ({"value": "x"}, "/format: has no 'type'"),
        (
            sequence(const("x"), {"type": "exclude_token", "exclude_tokens": []}),
            r"/format/elements/1 \(exclude_token\)",
        ),
        ({"type": "any_text", "max_tokens": 3}, r"/format/max_tokens \(any_text\)"),
        ({"type": "token", "token": 7}, r"/format \(token\): a token is named by its text"),
        (tag("<a>", {"type": "regex", "pattern": "("}, ""), r"/format/content \(regex\)"),
        ({**INTEGER, "style": "cohere_xml"}, r"/format/style \(json_schema\)"),
        ({**INTEGER, "style": "qwen_xml"}, r"/format/json_schema \(json_schema\): \(root\)"),
        ({**INTEGER, "excludes": ["a"]}, r"/format/excludes \(json_schema\)"),
        (
            {**TAGS["triggered_tags"], "triggers": ["<g"]},
            r"/format/tags/0/begin \(triggered_tags\): '<f1>' begins with no",
        ),
        ({**TAGS["triggered_tags"], "triggers": ["<", "<f"]}, "begins with 2 triggers"),
        ({"type": "sequence", "elements": []}, "/format/elements: must be a list with at least 1"),
    ],
)
def test_what_has_no_constraint_is_refused_with_its_place(form: dict[str, Any], where: str) -> None:
    with pytest.raises(sgl.ConstraintError, match=where):
        read(form)


@pytest.mark.parametrize("value", [3, "{", {"type": "json_object"}, {}, [], {"type": "structural_tag"}])
def test_what_is_no_structural_tag_is_refused(value: Any) -> None:
    with pytest.raises(sgl.ConstraintError, match="structural_tag"):
        sgl.structural_tag(value)


def test_generate_takes_structural_tags_as_sglang_does(runtime: Any) -> None:
    form = {**TAGS["triggered_tags"], "at_least_one": True, "stop_after_first": True}
    params = {"structural_tag": json.dumps({"type": "structural_tag", "format": form}), "max_new_tokens": 40}
    text = runtime.generate("Now: ", params)["text"]
    assert text.startswith("<f") and text.endswith("</f>")
    assert runtime.accepts(read(form), text)


def test_tokens_of_tags_are_control_tokens(runtime: Any) -> None:
    call = {"type": "tag", "begin": {"type": "token", "token": "<|im_start|>"}, "content": INTEGER, "end": ";"}
    form = {"type": "token_triggered_tags", "trigger_tokens": ["<|im_start|>"], "tags": [call], "at_least_one": True}

    @sgl.function
    def program(s: Any) -> None:
        s += "x" + sgl.gen("x", structural_tag={"type": "structural_tag", "format": form}, max_tokens=30)

    state = program.run(backend=runtime, seed=1)
    ids = state.get_meta_info("x")["token_ids"]
    assert ids[0] == runtime.tokenizer.control_token("<|im_start|>")
    assert state["x"].startswith("<|im_start|>")
