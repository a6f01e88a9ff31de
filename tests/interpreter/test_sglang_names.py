"""SGLang's names of arguments, on the toy model: a program is ported by changing its import."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import sgl


@sgl.function
def story(s: sgl.ProgramState, topic: str) -> None:
    s += sgl.user(f"Tell of {topic}.")
    s += sgl.assistant(sgl.gen("story", max_tokens=6, temperature=0, ignore_eos=True))


def test_text_iter_takes_var_name() -> None:
    state = story.run("rain", backend=sgl.Runtime.toy(), stream=True)
    assert "".join(state.text_iter(var_name="story")) == state["story"] != ""
    assert "".join(state.text_iter("story")) == state["story"]
    assert "".join(state.text_iter()) == state.text()
    with pytest.raises(sgl.OptionError, match="one argument"):
        list(state.text_iter("story", var_name="story"))


def test_every_piece_has_meta_information() -> None:
    async def main() -> list[tuple[str, Any]]:
        state = story.run("rain", backend=sgl.Runtime.toy(), stream=True, return_logprob=True)
        return [pair async for pair in state.text_async_iter(var_name="story", return_meta_data=True)]

    pairs = asyncio.run(main())
    assert len(pairs) > 1 and all(meta is not None for _, meta in pairs)
    *running, (rest, last) = pairs
    assert rest == "" and last["finish_reason"]["type"] == "length" and last["completion_tokens"] == 6
    counts = [meta["completion_tokens"] for _, meta in running]
    assert counts == sorted(counts) and counts[0] >= 1 and len({meta["id"] for _, meta in pairs}) == 1
    for _, meta in running:
        if meta["finish_reason"] is None:
            at = meta["completion_tokens"]
            assert meta["token_ids"] == last["token_ids"][:at]
            assert meta["output_token_logprobs"] == last["output_token_logprobs"][: len(meta["output_token_logprobs"])]


def test_a_select_and_a_scope_stream_with_meta_information() -> None:
    @sgl.function
    async def pick(s: sgl.ProgramState) -> dict[str, list[Any]]:
        with s.var_scope("all"):
            s += "It is " + sgl.select("word", ["good", "bad"])
        found = {}
        for name in ("word", "all"):
            found[name] = [pair async for pair in s.text_async_iter(name, True)]
        return found

    found = asyncio.run(pick.arun(backend=sgl.Runtime.toy())).ret_value
    assert found["word"][0][1]["decision"] == found["word"][0][0]
    assert "".join(text for text, _ in found["all"]).startswith("It is ")


def test_run_batch_takes_batch_kwargs() -> None:
    runtime = sgl.Runtime.toy()
    rows = [{"topic": "rain"}, {"topic": "salt"}]
    named = story.run_batch(batch_kwargs=rows, backend=runtime, num_threads=2)
    assert [s.text() for s in named] == [s.text() for s in story.run_batch(rows, backend=runtime)]
    assert story.run_batch([], backend=runtime) == []
    assert len(asyncio.run(story.arun_batch(batch_kwargs=rows, backend=runtime))) == 2
    for wrong in (lambda: story.run_batch(backend=runtime), lambda: story.run_batch(rows, batch_kwargs=rows)):
        with pytest.raises(sgl.OptionError, match="give the rows, once"):
            wrong()


@pytest.mark.parametrize("use_thread", [True, False])
def test_run_takes_use_thread(use_thread: bool) -> None:
    assert story.run(topic="rain", backend=sgl.Runtime.toy(), use_thread=use_thread)["story"]
    with pytest.raises(sgl.OptionError, match="use_thread must be True or False"):
        story.run(topic="rain", backend=sgl.Runtime.toy(), use_thread=1)


def test_a_program_may_call_its_own_argument_use_thread() -> None:
    say = sgl.function(lambda s, use_thread: s.user(use_thread))
    assert say.run(use_thread="yes", backend=sgl.Runtime.toy()).messages()[0]["content"] == "yes"


def test_what_sglang_tells_of_a_model() -> None:
    runtime = sgl.Runtime.toy()
    assert runtime.model_info["model_path"] == "toy" and runtime.endpoint.model_info["is_generation"]
    with pytest.raises(sgl.NotYet, match=r"runtime\.tokenizer\.encode"):
        runtime.encode("Hello")
