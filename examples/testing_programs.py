"""Unit tests of a program, without a model.

`sgl.FakeBackend` answers the calls of a program with texts that the test gives. It checks them against the constraints
of the calls, and keeps what the program asked. The last part runs the same program on the model.

Run: python examples/testing_programs.py      or: pytest examples/testing_programs.py, without a model

Expect of a model of 135M parameters: the right kind of mail, and a valid call with the right number.
"""

from __future__ import annotations

import sgl


@sgl.tool
def refund(order: int) -> str:
    """Pay the money of an order back."""
    return f"order {order} is refunded"


@sgl.function
def support(s: sgl.ProgramState, mail: str) -> str:
    s += sgl.system("You answer mails of customers.", tools=[refund])
    s += sgl.user(mail) + sgl.assistant(sgl.select("kind", ["refund", "question"]))
    if s["kind"] == "question":
        return "sent to a person"
    s += sgl.user("Call the tool.")
    s += sgl.assistant(sgl.call("step", [refund], choice="refund", max_tokens=40))
    [result] = sgl.run_tools(s.value("step"), [refund])
    return result.text


def test_a_refund_calls_the_tool() -> None:
    written = '<tool_call>{"name": "refund", "arguments": {"order": 17}}</tool_call>'
    backend = sgl.FakeBackend({"kind": "refund", "step": written})
    state = support.run("I want my money for order 17.", backend=backend)
    assert state.ret_value == "order 17 is refunded"
    assert "order 17" in backend.calls[0].prompt  # what the program asked


def test_a_question_goes_to_a_person() -> None:
    backend = sgl.FakeBackend(["question"])
    assert support.run("Are you open on Sunday?", backend=backend).ret_value == "sent to a person"
    assert len(backend.calls) == 1


def test_a_reply_that_no_model_could_give_is_refused() -> None:
    try:
        support.run("Hello", backend=sgl.FakeBackend(["maybe"])).text()
    except sgl.SglError as error:
        assert "'maybe' is none of the choices" in str(error)
    else:
        raise AssertionError("'maybe' is no choice of the select")


def main() -> None:
    tests = [
        test_a_refund_calls_the_tool,
        test_a_question_goes_to_a_person,
        test_a_reply_that_no_model_could_give_is_refused,
    ]
    for test in tests:
        test()
        print(f"passed: {test.__name__}")
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        state = support.run("Please refund my order 4711.", backend=runtime, temperature=0)
        print(f"on the model: {state['kind']}, {state.ret_value}\n\n{state.usage}")


if __name__ == "__main__":
    main()
