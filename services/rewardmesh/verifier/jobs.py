"""Work that waits for the pool: items that belong to one call, and what has come of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from rewardmesh.verifier.registry import LimitedOptions, Options
from rewardmesh.verifier.verdicts import Checked, NoVerdict, Reason, Verdict, Work, failed


class Item:
    """One sample or group of a job, with the caller's keys of its samples. `checked` is None until it is settled."""

    __slots__ = ("arrived", "checked", "deaths", "keys", "sample")

    def __init__(self, keys: tuple[str, ...], sample: Work, arrived: float) -> None:
        self.keys = keys
        self.sample = sample
        self.arrived = arrived
        self.deaths = 0
        """Workers that died while they checked it."""
        self.checked: Checked | None = None


class Job:
    """The items of one call, which share verifier, options and deadline. Made by `Pool.open`."""

    def __init__(self, verifier: str, options: Options, deadline: float | None, changed: Callable[[], None]) -> None:
        self.verifier = verifier
        self.options = options
        self.deadline = deadline
        """On the monotonic clock; None for no limit."""
        self.over = False
        """Whether nobody waits for results any more."""
        self.pending: deque[Item] = deque()
        """Items that no worker holds."""
        self.open: set[Item] = set()
        """Items without a result."""
        self._settled: deque[Item] = deque()
        self._changed = changed

    def add(self, samples: Sequence[tuple[tuple[str, ...], Work]]) -> list[Item]:
        """Take more samples or groups, each with keys of the caller's."""
        now = time.monotonic()
        items = [Item(keys, sample, now) for keys, sample in samples]
        self.pending.extend(items)
        self.open.update(items)
        return items

    def settle(self, item: Item, checked: Checked) -> None:
        """Note what came of an item; the first result counts."""
        if item in self.open:
            item.checked = checked
            self.open.discard(item)
            self._settled.append(item)
            self._changed()

    def take(self) -> Item | None:
        """The next settled item that has not been taken yet, in the order in which they were settled."""
        return self._settled.popleft() if self._settled else None

    @property
    def held(self) -> int:
        """Items that have been added and not been taken."""
        return len(self.open) + len(self._settled)

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def expire(self) -> None:
        """The deadline has passed: every item without a result gets DEADLINE."""
        self.settle_all(late())

    def settle_all(self, result: NoVerdict) -> None:
        """Give every item without a result the same one."""
        self.pending.clear()
        now = time.monotonic()
        for item in list(self.open):
            self.settle(item, Checked(result, now - item.arrived))

    def beyond_limit(self, absence: NoVerdict) -> Verdict | NoVerdict:
        """What an item gets that exceeded a limit of its own: `absence`, or a FAIL where the options ask for it."""
        wanted = isinstance(self.options, LimitedOptions) and self.options.on_timeout == "fail"
        return failed(absence.detail) if wanted else absence


def late() -> NoVerdict:
    """What an item gets that was not begun in time."""
    return NoVerdict(Reason.DEADLINE, "the call's deadline passed before the item was checked", retryable=True)
