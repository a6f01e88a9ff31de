"""A person, or a rule, between the model and a tool: `python examples/approval.py --ask 1`.

A tool with `requires_approval=True` never runs by itself. `approve=` gets the call and gives True, False, a reason
against it, or the call with other arguments. The model is told what was decided, and the loop goes on. Without `--ask`
a rule decides: small sums pass, middle ones are cut down, large ones are refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from common import session

import sgl

ACCOUNT = {"balance": 1000}


@sgl.tool(requires_approval=True)
def pay(payee: str, amount: int) -> str:
    """Pay somebody.

    Args:
        payee: Who gets the money.
        amount: How many euros.
    """
    ACCOUNT["balance"] -= amount
    return f"paid {amount} euros to {payee}; {ACCOUNT['balance']} are left"


def by_rule(call: sgl.ToolCall) -> bool | str | sgl.ToolCall:
    amount = call.arguments["amount"]
    if not 0 < amount <= 400:
        return f"{amount} euros is not a sum that may be paid"
    return dataclasses.replace(call, arguments={**call.arguments, "amount": min(amount, 100)})


def by_asking(call: sgl.ToolCall) -> bool | str:
    reply = input(f"  may I call {call.name}({call.arguments})? [y, or why not] ")
    return reply.lower() in ("y", "yes") or reply or False


@sgl.function
def clerk(s: sgl.ProgramState, task: str, approve: Callable[[sgl.ToolCall], Any]) -> sgl.AgentResult:
    s += sgl.system("You pay bills with the tool.", tools=[pay]) + sgl.user(task)
    answer = sgl.regex("The bill is (not )?paid[.]")
    result: sgl.AgentResult = sgl.agent(
        s, [pay], min_tool_calls=1, parallel=1, max_steps=2, approve=approve, answer=answer, max_tokens=60
    )
    return result


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, ask=0) as args:
        for task in ("Pay 30 euros to Anna.", "Pay 300 euros to Ben.", "Pay 9000 euros to Carl."):
            state = clerk.run(task, by_asking if args.ask else by_rule, temperature=0)
            [result] = state.ret_value.results
            print(f"{task}\n    the call: {result.call.arguments}\n    the result: {result.text}")
            print(f"    the model: {state.ret_value.answer}")
        print(f"\n{state.usage}")


if __name__ == "__main__":
    main()
