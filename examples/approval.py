"""A rule, or a person, between the model and a tool.

A tool with `requires_approval=True` never runs by itself. `approve=` is asked about each call. It gives True, False, a
text (refused, and why), or the call with other arguments. The model reads what was decided, and the loop goes on.

Run: python examples/approval.py          a rule decides: small sums pass, larger ones are cut down, the largest refused
     python examples/approval.py --ask    you decide

Expect of a model of 135M parameters: calls with the right name and sum, and answers that repeat what the tool said.
What became of the money is in the tool's result, never in the model's words.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import sgl

account = {"balance": 1000}


@sgl.tool(requires_approval=True)
def pay(payee: str, amount: int) -> str:
    """Pay somebody.

    Args:
        payee: Who gets the money.
        amount: How many euros.
    """
    account["balance"] -= amount
    return f"paid {amount} euros to {payee}; {account['balance']} are left"


def by_rule(call: sgl.ToolCall) -> bool | str | sgl.ToolCall:
    amount = call.arguments["amount"]
    if not 0 < amount <= 400:
        return f"{amount} euros is not a sum that may be paid"
    if amount > 100:
        return dataclasses.replace(call, arguments={**call.arguments, "amount": 100})
    return True


def by_asking(call: sgl.ToolCall) -> bool | str:
    reply = input(f"  may I call {call.name}({call.arguments})? [y, or why not] ")
    return reply.lower() in ("y", "yes") or reply or False


@sgl.function
def clerk(s: sgl.ProgramState, task: str, approve: Callable[[sgl.ToolCall], Any]) -> sgl.AgentResult:
    s += sgl.system("You pay bills with the tool.", tools=[pay]) + sgl.user(task)
    # A small model is led: one call, then an answer that repeats the result. A large one needs neither.
    answer = sgl.regex(r"The tool says: [^.<{\n]{3,60}\.")
    result: sgl.AgentResult = sgl.agent(
        s, [pay], min_tool_calls=1, parallel=1, max_steps=2, approve=approve, answer=answer, max_tokens=60
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ask", action="store_true", help="ask you, not the rule")
    args = parser.parse_args()
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        for task in ("Pay 30 euros to Anna.", "Pay 300 euros to Ben.", "Pay 9000 euros to Carl."):
            print(task)
            state = clerk.run(task, by_asking if args.ask else by_rule, backend=runtime, temperature=0)
            for result in state.ret_value.results:
                print(f"    {result.call.name}({result.call.arguments}) -> {result.text}")
            print(f"    the model: {state.ret_value.answer}")
            print(f"    {state.usage.total}")
        print(f"{account['balance']} euros are left")


if __name__ == "__main__":
    main()
