"""Programs in the style of SGLang's examples, ported by changing their import: each runs as it stands."""

from __future__ import annotations

import asyncio
import json

import pytest

import sgl
from sgl import assistant, function, gen, image, select, set_default_backend, system, user


@pytest.fixture(autouse=True)
def backend() -> sgl.Runtime:
    runtime = sgl.Runtime.toy()
    set_default_backend(runtime)  # the fixture of the folder takes it away again
    return runtime


def test_few_shot_questions_run_stream_and_batch():
    @function
    def few_shot_qa(s, question):
        s += "Q: What is the capital of France?\nA: Paris\n"
        s += "Q: " + question + "\n"
        s += "A:" + gen("answer", stop="\n", temperature=0)

    state = few_shot_qa.run(question="Of Italy?", max_new_tokens=16)
    assert len(state.get_meta_info("answer")["token_ids"]) <= 16
    streamed = few_shot_qa.run(question="Of Italy?", max_new_tokens=16, stream=True)
    assert "".join(streamed.text_iter()) == state.text()
    rows = [{"question": "Of Italy?"}, {"question": "Of Peru?"}]
    states = few_shot_qa.run_batch(rows, max_new_tokens=16, num_threads=2, generator_style=True)
    assert next(states)["answer"] == state["answer"]


def test_multi_turn_questions_with_roles_of_every_form():
    @function
    def multi_turn(s, question_1, question_2):
        s += system("You are a helpful assistant.")
        s += user(question_1)
        s += assistant(gen("answer_1", max_tokens=8))
        with s.user():
            s += question_2
        s += sgl.assistant_begin()
        s += gen("answer_2", max_tokens=8)
        s += sgl.assistant_end()

    state = multi_turn.run(question_1="Why?", question_2="How?", stream=True)
    assert "".join(state.text_iter(var_name="answer_2")) == state["answer_2"]
    assert [m["role"] for m in state.messages()] == ["system", "user", "assistant", "user", "assistant"]

    async def stream():
        state = multi_turn.run(question_1="Why?", question_2="How?", stream=True)
        return [p async for p in state.text_async_iter(var_name="answer_1", return_meta_data=True)]

    assert all(meta["id"] for _, meta in asyncio.run(stream()))


def test_control_flow_of_a_tool():
    @function
    def tool_use(s, question):
        s += "To answer this question: " + question + ", "
        s += "I need to use a " + gen("tool", choices=["calculator", "web browser"], max_tokens=10) + ". "
        if s["tool"] == "calculator":
            s += "The math expression is" + gen("expression", max_tokens=4)
        else:
            s += "The website url is" + gen("url", max_tokens=4)

    state = tool_use(question="What is 2 * 2?")
    assert ("expression" in state) == (state["tool"] == "calculator")


def test_programs_call_programs():
    @function
    def expand(s, topic, tip):
        s += f"Topic: {topic}\nTip: {tip}\n" + gen("paragraph", max_tokens=6, stop=["\n\n"])

    @function
    def suggest(s, topic):
        s += "Tips for " + topic + ": 1." + gen("tip", max_tokens=4, stop=["1.", "2."])
        first, second = expand(topic=topic, tip=s["tip"]), expand(topic, s["tip"])
        s += first["paragraph"] + second["paragraph"] + gen("summary", max_tokens=4)

    assert suggest.run(topic="health").usage.total.calls == 4


def test_samples_in_parallel_with_an_argument_called_n():
    @function
    def parallel_sample(s, question, n):
        s += "Question: " + question + "\n"
        forks = s.fork(n)
        forks += "Reasoning:" + gen("reasoning", stop="\n", max_tokens=6) + "\n"
        forks += "Tool:" + gen("tool", choices=["calculator", "browser"]) + "\n"
        forks.join()

    state = parallel_sample.run(question="Compute 5 + 2", n=5, temperature=1.0)
    assert len(state["reasoning"]) == len(state["tool"]) == 5


def test_joins_and_copies():
    @function
    def program(s):
        forks = s.fork(2)
        forks += lambda i: f" {i}:" + gen("a", max_tokens=2)
        forks.join("concate_and_append")
        with s.copy() as c:
            c += "hm" + gen("c", max_tokens=2)
        s += gen("end", max_tokens=2)

    state = program.run()
    assert " 0:" in state.text() and " 1:" in state.text() and len(state["c"]) == 1


def test_json_by_regex_and_by_schema(backend):
    regex = r'\{\n    "name": "[\w\s]{1,16}",\n    "house": "(Gryffindor|Slytherin)"\n\}'
    schema = json.dumps(
        {
            "type": "object",
            "properties": {"name": {"type": "string", "pattern": "^[\\w]{1,9}$"}, "n": {"type": "integer"}},
            "required": ["name", "n"],
            "additionalProperties": False,
        }
    )

    @function
    def character(s, name):
        s += name + " is a character. The constrained regex is:\n" + regex + "\n"
        s += "JSON:\n" + gen("by_regex", max_tokens=256, regex=regex)
        s += gen("by_schema", json_schema=schema, max_tokens=200)

    state = character.run(name="Hermione")
    assert json.loads(state["by_schema"]).keys() == {"name", "n"}
    assert '"house": "' in state["by_regex"]
    assert json.loads(backend.generate("x", {"json_schema": schema, "max_new_tokens": 200})["text"])


def test_typed_values_in_a_scope():
    @function
    def program(s):
        with s.var_scope("all"):
            s += "a:" + sgl.gen_int("i", max_tokens=4) + gen("b", dtype=bool) + sgl.gen_string("q", max_tokens=8)
        s.set_var("copy", s.get_var("i"))

    state = program.run()
    assert state["all"] == "a:" + state["i"] + state["b"] + state["q"] and state["copy"] == state["i"]


def test_choice_methods_and_log_probabilities():
    @function
    def program(s):
        s += "It is" + gen("a", choices=[" x", " yy"], choices_method=sgl.greedy_token_selection)
        s += select("b", choices=[" p", " q"], choices_method=sgl.unconditional_likelihood_normalized)
        s += gen("c", max_tokens=1, return_logprob=True, top_logprobs_num=5)

    state = program.run()
    assert len(state.get_meta_info("c")["output_top_logprobs"][0]) == 5
    assert len(state.get_meta_info("a")["input_token_logprobs"]) == 2


def test_an_image_is_a_typed_error():
    @function
    def program(s):
        s += user(image("cat.png") + "What is this?")

    with pytest.raises(sgl.NotYet, match="an image in a prompt"):
        program.run()


def test_offline_generation(backend):
    llm = backend
    prompts = ["Hello, my name is", "The capital of France is"]
    params = {"temperature": 0.8, "top_p": 0.95, "max_new_tokens": 4}
    assert [set(out) for out in llm.generate(prompts, params)] == [{"text", "output_ids", "meta_info"}] * 2

    async def main():
        out = await llm.async_generate(prompts, params)
        pieces = [piece async for piece in await llm.async_generate(prompts[0], params, stream=True)]
        return len(out), "".join(pieces)

    assert asyncio.run(main())[0] == 2
