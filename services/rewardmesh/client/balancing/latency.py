"""How long the calls of one method take of late: when a call that has no answer yet is unusual enough to be sent again elsewhere."""

from collections import deque

_WINDOW = 256
_EVERY = 16
_FEWEST = 8
_UNKNOWN_S = 2.0
_LEAST_S = 0.02


class Latencies:
    """The last durations of successful attempts, and their 95th percentile, computed anew at every 16th."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_WINDOW)
        self._since = 0
        self._p95_s: float | None = None

    def observe(self, seconds: float) -> None:
        """Note a successful attempt. Those that lost against a hedge are not: how long they would have taken is not known."""
        self._seconds.append(seconds)
        self._since += 1
        if self._since >= _EVERY or (self._p95_s is None and len(self._seconds) >= _FEWEST):
            self._since = 0
            ordered = sorted(self._seconds)
            self._p95_s = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]

    @property
    def p95_s(self) -> float | None:
        """None before the first few calls."""
        return self._p95_s

    def hedge_delay_s(self, multiple: float) -> float:
        """So many times the percentile, at least 20 ms; 2 s while nothing is known."""
        return _UNKNOWN_S if self._p95_s is None else max(_LEAST_S, multiple * self._p95_s)
