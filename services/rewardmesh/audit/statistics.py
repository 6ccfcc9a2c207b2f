"""The statistics of the audits: intervals, logits, least squares. Pure functions over float64 arrays.

Shares have Wilson's score interval (Wilson, 1927), everything else a percentile bootstrap over items (Efron, 1979) with a fixed seed, so
that the same verdicts give the same report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from rewardmesh.audit.figures import Estimate

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Statistic = Callable[[Integers], float]
"""From indices of items, perhaps repeated, to a number; NaN where these items do not define it."""

Z = 1.959963984540054
"""Standard normal quantile of a 95 % interval."""
DRAWS = 1000
SMALLEST = 1e-6
"""Probabilities are kept this far from 0 and 1 before their logit is taken: float32 says no more there."""


def share(hits: Sequence[bool] | Flags) -> Estimate:
    """A share with Wilson's interval; at least one item."""
    n, k = len(hits), int(np.sum(hits))
    low, high = wilson(k, n)
    return Estimate(k / n, low, high, n)


def wilson(k: int, n: int) -> tuple[float, float]:
    """95 % interval of a share of k in n, n > 0."""
    p, zz = k / n, Z * Z
    centre = (p + zz / (2 * n)) / (1 + zz / n)
    half = Z / (1 + zz / n) * float(np.sqrt(p * (1 - p) / n + zz / (4 * n * n)))
    # At the ends the formula gives 0 and 1 exactly, but for rounding.
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def difference(first: Flags, second: Flags) -> Estimate:
    """Difference of two shares with Newcombe's interval from those of Wilson (Newcombe, 1998, method 10); both not empty."""
    p, q = float(first.mean()), float(second.mean())
    (p_low, p_high), (q_low, q_high) = (wilson(int(each.sum()), len(each)) for each in (first, second))
    below, above = np.hypot(p - p_low, q_high - q), np.hypot(p_high - p, q - q_low)
    return Estimate(p - q, float(p - q - below), float(p - q + above), len(first) + len(second))


def bootstrap(statistic: Statistic, n: int, seed: int, draws: int = DRAWS) -> Estimate:
    """A statistic of n items with its percentile interval; draws that do not define it are left out.

    Raises:
        ValueError: the items themselves do not define it.
    """
    value = statistic(np.arange(n))
    if not np.isfinite(value):
        raise ValueError("the statistic is not defined on these items")
    rng = np.random.default_rng(seed)
    drawn = np.array([statistic(rng.integers(0, n, n)) for _ in range(draws)])
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high), n)


def crossed_mean(matrix: Floats, seed: int) -> Estimate:
    """Mean of a matrix [k, n] whose rows and columns were both drawn from more (texts and pairs), NaN where there is no value.

    The interval draws rows and columns anew, so that it holds for other texts and other pairs.

    Raises:
        ValueError: no value at all.
    """
    known = ~np.isnan(matrix)
    if not known.any():
        raise ValueError("the statistic is not defined on these items")
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS):
        rows, columns = (rng.integers(0, size, size) for size in matrix.shape)
        cells = matrix[np.ix_(rows, columns)]
        if not np.isnan(cells).all():
            drawn.append(float(np.nanmean(cells)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(matrix[known].mean()), float(low), float(high), int(known.sum()))


def mean(values: Sequence[float] | Floats, seed: int) -> Estimate:
    """A mean with its bootstrap interval; at least one value."""
    array = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    # All draws at once: this is called for every bar of a plot.
    low, high = np.quantile(array[rng.integers(0, len(array), (DRAWS, len(array)))].mean(axis=1), [0.025, 0.975])
    return Estimate(float(array.mean()), float(low), float(high), len(array))


def logit(p: npt.ArrayLike, votes: int = 0) -> Floats:
    """Log-odds of probabilities, finite.

    Args:
        p: in [0, 1].
        votes: sampled votes behind each; a share of few votes is shrunk by half a vote on either side, since it says 0 or 1 too easily.
    """
    array = np.asarray(p, dtype=np.float64)
    array = (array * votes + 0.5) / (votes + 1) if votes else np.clip(array, SMALLEST, 1 - SMALLEST)
    odds: Floats = np.log(array) - np.log1p(-array)
    return odds


def sigmoid(x: npt.ArrayLike) -> Floats:
    """Inverse of `logit`."""
    array = np.asarray(x, dtype=np.float64)
    result: Floats = 0.5 * (1.0 + np.tanh(array / 2.0))
    return result


def slopes(columns: Floats, y: Floats) -> Floats | None:
    """Least squares of y [n] on columns [n, k] without intercept: [k]; None when the columns do not determine them."""
    found, _, rank, _ = np.linalg.lstsq(columns, y, rcond=None)
    slope: Floats = found.astype(np.float64)
    return slope if rank == columns.shape[1] else None


def log_loss(p: Floats, wins: Floats) -> Floats:
    """Negative log-likelihood (nats) of outcomes in [0, 1] under probabilities, [n]."""
    p = np.clip(p, SMALLEST, 1 - SMALLEST)
    loss: Floats = -(wins * np.log(p) + (1 - wins) * np.log1p(-p))
    return loss


def calibrating_temperature(logits: Floats, wins: Floats) -> float:
    """The T > 0 that makes sigmoid(logit / T) fit the outcomes best (Guo et al. 2017, arXiv 1706.04599), within [0.05, 20].

    Found by golden section over log T: the loss is convex in 1 / T.
    """
    low, high = np.log(0.05), np.log(20.0)
    ratio = (np.sqrt(5) - 1) / 2

    def loss(log_temperature: float) -> float:
        return float(log_loss(sigmoid(logits / np.exp(log_temperature)), wins).mean())

    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def verdicts(p: npt.ArrayLike) -> Floats:
    """1 where the first answer wins, -1 where the second does, 0 for a tie; float32's last digit makes no winner."""
    signs: Floats = np.sign(np.round(np.asarray(p, dtype=np.float64) - 0.5, 6))
    return signs
