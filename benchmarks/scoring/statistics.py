"""The few statistics a benchmark needs: medians of rounds, ratios of rounds that measured the same items, percentiles."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence


def rate(passes: Sequence[Mapping[str, float]]) -> float:
    """Median over passes of items a second; a pass has "items" and "seconds".

    Raises:
        ValueError: there is no pass.
    """
    if not passes:
        raise ValueError("no pass was measured")
    return statistics.median(one["items"] / one["seconds"] for one in passes)


def spread(passes: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Slowest and fastest pass, in items a second."""
    rates = [one["items"] / one["seconds"] for one in passes]
    return min(rates), max(rates)


def ratio(passes: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]) -> float:
    """Median over the rounds both took part in of our rate over theirs; rounds differ in their items, so they are compared one by one.

    Raises:
        ValueError: they have no round in common.
    """
    theirs = {one["round"]: one["items"] / one["seconds"] for one in others}
    ratios = [one["items"] / one["seconds"] / theirs[one["round"]] for one in passes if one["round"] in theirs]
    if not ratios:
        raise ValueError("no round in common")
    return statistics.median(ratios)


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that `share` (0 to 1) of the values do not exceed; NaN for no values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
