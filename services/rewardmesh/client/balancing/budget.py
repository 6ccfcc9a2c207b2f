"""One budget of extra attempts: a token bucket that calls fill and retries, hedges and resumed streams draw from.

When all replicas fail, the servers see at most (1 + refill) times the calls and once the first tokens, whatever each call would like to do.
"""

import threading


class Budget:
    """At most `most` tokens, full at first; `refill` of one for each call. Threads may share it."""

    def __init__(self, most: float, refill: float) -> None:
        self._most = most
        self._refill = refill
        self._tokens = float(most)
        self._lock = threading.Lock()

    def add_call(self) -> None:
        """Note a call (not an attempt)."""
        if self._tokens < self._most:
            with self._lock:
                self._tokens = min(self._most, self._tokens + self._refill)

    def take(self) -> bool:
        """Draw a token for one extra attempt; False when there is none."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True

    def give_back(self) -> None:
        """Return a token that was drawn and not used."""
        with self._lock:
            self._tokens = min(self._most, self._tokens + 1)

    @property
    def tokens(self) -> float:
        """Tokens left."""
        return self._tokens
