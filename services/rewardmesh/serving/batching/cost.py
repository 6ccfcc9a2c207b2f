"""How long a batch takes, learnt from every batch: seconds = pace * (overhead + tokens * slope).

Overhead and slope are a line through what the last hundred or so batches took; under constant load all batches are of nearly one size,
which says little about a line, so it is drawn towards one without overhead. The pace is what the last few batches took against that
line: it follows at once when the machine becomes slower or faster. Tokens are those that the batcher plans with (after sharing what it
knows to be shared), so that what the engine finds beyond that, such as a prefix that it still has in its cache, makes the pace faster.
"""

from __future__ import annotations

import math

HEADROOM = 1.4
"""How wrong expected times may be before a promise is broken. Under constant overload the queue settles at 1 / HEADROOM of the deadline,
so this costs no throughput, and what is left is room for full batches and for a stall now and then."""
DEVIATIONS = 3.0
"""What is added for batches that take longer than expected, in mean deviations."""
REPLY_S = 0.01
"""What an answer takes on its way back."""
MOST_OVERHEAD = 0.2
"""Part of a batch's duration."""

_LINE_MEMORY = 0.98  # weight of the past in the line at each new batch
_RIDGE = 0.02  # sizes that differ by the root of this, relative to their mean, pull the line as much as the preference for no overhead
_PACE_GAIN, _DEVIATION_GAIN = 0.2, 0.1
_FASTER, _SLOWER = 0.5, 2.0  # a batch that took so many times what was expected is no noise...
_REGIME_GAIN = 0.8  # ...and, when it was faster or the second slow one in a row, the past counts little
_LONGEST = 8.0


class CostModel:
    """Learns from every batch; knows nothing before the first.

    Attributes:
        deviation_s: by how much batches differ from what is expected of them, on average.
    """

    def __init__(self) -> None:
        self.deviation_s = 0.0
        self._n = self._x = self._y = self._xx = self._xy = 0.0
        self._overhead = self._slope = 0.0
        self._pace = 1.0
        self._was_slow = False

    def seconds(self, tokens: float, batches: float = 1.0) -> float:
        """Expected duration of so many tokens in so many batches; 0 while nothing is known."""
        return self._pace * (self._overhead * batches + self._slope * tokens)

    def safe_seconds(self, expected_s: float) -> float:
        """What can be promised for an expected duration."""
        return HEADROOM * expected_s + DEVIATIONS * self.deviation_s + REPLY_S

    def tokens_within(self, seconds: float) -> float:
        """Most tokens that one batch may hold to end in time; infinite while nothing is known."""
        if not self._slope:
            return math.inf
        return (seconds / self._pace - self._overhead) / self._slope

    def tokens_safely_within(self, seconds: float) -> float:
        """The same, to be sure of it."""
        return self.tokens_within((seconds - DEVIATIONS * self.deviation_s - REPLY_S) / HEADROOM)

    @property
    def efficient_tokens(self) -> float:
        """Tokens of a batch that is overhead for no more than `MOST_OVERHEAD`."""
        return (1 / MOST_OVERHEAD - 1) * self._overhead / self._slope if self._slope else 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn from a batch. One stalled batch is taken for an accident, the second in a row for the new state of things."""
        x = float(max(tokens, 1))
        seconds = max(seconds, 1e-9)
        if self._n:
            expected = self.seconds(x)
            slow = seconds > _SLOWER * expected
            changed = seconds < _FASTER * expected or (slow and self._was_slow)
            seconds = min(seconds, (_LONGEST if self._was_slow else _SLOWER) * expected)
            self._was_slow = slow
            self.deviation_s += _DEVIATION_GAIN * (min(abs(seconds - expected), expected) - self.deviation_s)
            pace = seconds / (self._overhead + self._slope * x)
            self._pace += (_REGIME_GAIN if changed else _PACE_GAIN) * (pace - self._pace)
        self._n = _LINE_MEMORY * self._n + 1
        self._x = _LINE_MEMORY * self._x + x
        self._y = _LINE_MEMORY * self._y + seconds
        self._xx = _LINE_MEMORY * self._xx + x * x
        self._xy = _LINE_MEMORY * self._xy + x * seconds
        self._fit(x)

    def _fit(self, x: float) -> None:
        """Ridge regression towards the line through the origin; what is expected of a batch like the last one stays as it was."""
        n, mean_x, mean_y = self._n, self._x / self._n, self._y / self._n
        before = self._pace * (self._overhead + self._slope * x)
        ridge = _RIDGE * mean_x * mean_x
        slope = (self._xy / n - mean_x * mean_y + ridge * mean_y / mean_x) / (self._xx / n - mean_x * mean_x + ridge)
        self._slope = min(max(slope, 0.02 * mean_y / mean_x), mean_y / mean_x)
        self._overhead = mean_y - self._slope * mean_x
        if before:
            self._pace = before / (self._overhead + self._slope * x)
