"""What can be wrong with a single tool call, by itself or beside those before and after it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rewardmesh.verifier.json_schemas import first_mistake
from rewardmesh.verifier.patterns import linear
from rewardmesh.verifier.tool_calls import Call

Category = str
"""malformed-call, unknown-tool, wrong-arguments, forbidden-tool, too-many-calls, repeated-call or unrecovered-error."""


class CallRules(NamedTuple):
    """What every call must keep."""

    tools: Mapping[str, str]
    """Name of each known tool to the schema of its arguments, as text; empty when any tool may be called."""
    forbidden: frozenset[str]
    most: int | None
    repeats: bool
    """Whether the same call may be made again."""
    recover: bool
    """Whether another call must follow a response that is an error."""
    error_pattern: str


class Mistake(NamedTuple):
    """What is wrong with a call."""

    category: Category
    evidence: str


def mistakes(calls: Sequence[Call], rules: CallRules) -> list[Mistake | None]:
    """For each call what is wrong with it first, None for nothing."""
    seen: set[str] = set()
    found = []
    for number, call in enumerate(calls):
        written = json.dumps([call.name, call.arguments], sort_keys=True)
        found.append(_mistake(number, call, rules, written in seen, calls[-1].place))
        if not call.problem:
            seen.add(written)
    return found


def _mistake(number: int, call: Call, rules: CallRules, again: bool, last_place: int) -> Mistake | None:
    if call.problem:
        return Mistake("malformed-call", call.problem)
    name = call.name[:100]
    if call.name in rules.forbidden:
        return Mistake("forbidden-tool", f"{name} must not be called")
    if rules.tools:
        schema = rules.tools.get(call.name)
        if schema is None:
            return Mistake("unknown-tool", f"there is no tool {name!r}; there are {', '.join(list(rules.tools)[:20])}")
        wrong = first_mistake(schema, call.arguments)
        if wrong:
            return Mistake("wrong-arguments", f"{name}: {wrong}")
    if rules.most is not None and number >= rules.most:
        return Mistake("too-many-calls", f"{name} is call {number + 1}; at most {rules.most} are allowed")
    if again and not rules.repeats:
        return Mistake("repeated-call", f"{name} was called with the same arguments before")
    given_up = rules.recover and call.response is not None and call.answered >= last_place
    if given_up and linear(rules.error_pattern).search(call.response or ""):
        return Mistake("unrecovered-error", f"{name} came to an error and nothing else was tried: {call.response!r:.100}")
    return None
