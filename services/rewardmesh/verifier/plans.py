"""Compares the calls of a trajectory with those that were wanted: in order, in any order, or as the beginning of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from rewardmesh.verifier.tool_calls import Call


class WantedCall(BaseModel):
    """A call that is wanted: the tool, and arguments that must be among the call's with these values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=200, description="The tool.")
    arguments: dict[str, Any] = Field(default_factory=dict, description="Arguments that the call must have; it may have others too.")

    def met_by(self, call: Call) -> bool:
        """Whether the call is that one; it may have further arguments, at the top level only."""
        return (
            not call.problem
            and call.name == self.name
            and all(key in call.arguments and same(call.arguments[key], value) for key, value in self.arguments.items())
        )

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"[:200]


def same(first: Any, second: Any) -> bool:
    """Whether two JSON values are equal: 1 is 1.0 and not true."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def in_any_order(wanted: Sequence[WantedCall], calls: Sequence[Call]) -> list[int | None]:
    """For each wanted call, the call that is it, so that as many as possible are met and each call is only one of them."""
    takes: dict[int, int] = {}

    def place(index: int, tried: set[int]) -> bool:
        for number, call in enumerate(calls):
            if number not in tried and wanted[index].met_by(call):
                tried.add(number)
                if number not in takes or place(takes[number], tried):
                    takes[number] = index
                    return True
        return False

    for index in range(len(wanted)):
        place(index, set())
    found: list[int | None] = [None] * len(wanted)
    for number, index in takes.items():
        found[index] = number
    return found


def in_order(wanted: Sequence[WantedCall], calls: Sequence[Call]) -> list[int | None]:
    """For each wanted call, the call that is it in a longest common subsequence."""
    longest = [[0] * (len(calls) + 1) for _ in range(len(wanted) + 1)]
    met = [[one.met_by(call) for call in calls] for one in wanted]
    for index in reversed(range(len(wanted))):
        for number in reversed(range(len(calls))):
            skipped = max(longest[index + 1][number], longest[index][number + 1])
            longest[index][number] = max(skipped, longest[index + 1][number + 1] + 1) if met[index][number] else skipped
    found: list[int | None] = [None] * len(wanted)
    index = number = 0
    while index < len(wanted) and number < len(calls):
        if met[index][number] and longest[index][number] == longest[index + 1][number + 1] + 1:
            found[index] = number
            index, number = index + 1, number + 1
        elif longest[index + 1][number] >= longest[index][number + 1]:
            index += 1
        else:
            number += 1
    return found


def as_prefix(wanted: Sequence[WantedCall], calls: Sequence[Call]) -> list[int | None]:
    """For each wanted call, the call at the same place, up to the first that differs."""
    found: list[int | None] = [None] * len(wanted)
    for index, (one, call) in enumerate(zip(wanted, calls, strict=False)):
        if not one.met_by(call):
            break
        found[index] = index
    return found
