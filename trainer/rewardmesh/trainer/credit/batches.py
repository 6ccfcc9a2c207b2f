"""Cutting a batch's credit: minibatches are optimiser steps, micro-batches are parts of one step that fit in memory."""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from rewardmesh.trainer.credit.base import Credit

C = TypeVar("C", bound=Credit)


def minibatches(credit: C, count: int, rng: np.random.Generator) -> Iterator[C]:
    """At most `count` parts in random order, each normalised by its own weight. One part keeps the order and draws nothing."""
    if credit.is_empty:
        return
    if count == 1:
        yield credit
        return
    units = credit.units(count)
    order = rng.permutation(len(units))
    for share in np.array_split(order, min(count, len(units))):
        part = credit.select([index for unit in share for index in units[unit]])
        yield part.normalised_by(part.total_weight)


def micro_batches(credit: C, max_tokens: int) -> Iterator[C]:
    """Parts of at most `max_tokens` prompt and completion tokens, the normaliser kept: their losses add up to that of `credit`.

    A prompt shared by the rollouts of one part is counted once. What cannot be cut is a part by itself even when larger.
    """
    part: list[int] = []
    tokens = 0
    for unit in _fitting_units(credit, max_tokens):
        cost = _cost(credit, unit)
        if part and tokens + cost > max_tokens:
            yield credit.select(part)
            part, tokens = [], 0
        part = part + unit
        tokens += cost
    if part:
        yield credit.select(part)


def _fitting_units(credit: Credit, max_tokens: int) -> Iterator[list[int]]:
    finest = {unit[0]: unit for unit in credit.units(len(credit.rollouts))}
    for unit in credit.units(1):
        if _cost(credit, unit) <= max_tokens:
            yield unit
        else:
            yield from (finest[index] for index in unit if index in finest)


def _cost(credit: Credit, unit: list[int]) -> int:
    return len(credit.rollouts[unit[0]].prompt_ids) + sum(credit.rollouts[index].length for index in unit)
