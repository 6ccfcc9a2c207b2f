"""What an item of a call took: time, tokens and money, over all that was asked of the model for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rewardmesh.serving.batching import Done
from rewardmesh.serving.batching.work import R
from rewardmesh.serving.spending import Bill, Ledger
from rewardmesh.v1 import common_pb2 as pb


@dataclass
class Account:
    """Adds up; see `Provenance` for the units.

    Attributes:
        asked, computed: questions put, and those that nothing had the answer of.
        cost_usd: None where no price is configured.
    """

    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    tokens_read: int = 0
    tokens_computed: int = 0
    tokens_written: int = 0
    asked: int = 0
    computed: int = 0
    cost_usd: float | None = None

    @property
    def cached(self) -> bool:
        """Whether all of it was known before."""
        return self.asked > 0 and not self.computed

    def add(self, done: Sequence[Done[R]]) -> None:
        """Questions that waited and ran side by side, mostly in one batch."""
        self.queue_seconds += max((each.queue_seconds for each in done), default=0.0)
        self.compute_seconds += max((each.compute_seconds for each in done), default=0.0)
        self.tokens_computed += sum(each.tokens_computed for each in done)
        self.asked += len(done)
        self.computed += sum(not each.cached for each in done)

    def charge(self, bill: Bill, model: str, *, read: int, written: int) -> None:
        """Put it on the call's bill; what a cache answered costs nothing."""
        cost = bill.charge(model, tokens_read=read, tokens_written=written)
        if cost is not None:
            self.cost_usd = (self.cost_usd or 0.0) + cost


def provenance(service: str, model: pb.ModelRef, replica: str, accounts: Iterable[Account], ledger: Ledger) -> pb.Provenance:
    """Where an outcome came from and what it took, all accounts together."""
    parts = list(accounts)
    costs = [part.cost_usd for part in parts if part.cost_usd is not None]
    cost = sum(costs) if costs else ledger.price(0, 0)
    return pb.Provenance(
        service=service,
        model=model,
        replica=replica,
        cached=bool(parts) and all(part.cached for part in parts),
        queue_seconds=max((part.queue_seconds for part in parts), default=0.0),
        compute_seconds=max((part.compute_seconds for part in parts), default=0.0),
        tokens_read=sum(part.tokens_read for part in parts),
        tokens_computed=sum(part.tokens_computed for part in parts),
        tokens_written=sum(part.tokens_written for part in parts),
        cost_usd=cost,
    )
