"""Computes a batch, and when it fails finds the items that are to blame."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, NamedTuple

from rewardmesh.serving.batching.work import P, R, Ticket
from rewardmesh.serving.errors import ItemsLostError
from rewardmesh.serving.logs import get_logger
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

log = get_logger(__name__)

Compute = Callable[[Hashable, Sequence[P]], Sequence[tuple[R, int]]]


class Outcome(NamedTuple, Generic[R]):
    """What came of one item of a batch."""

    ticket: Ticket[R]
    result: R | None
    absence: pb.Absence | None
    compute_seconds: float
    tokens_computed: int


def compute_batch(compute: Compute[P, R], tickets: Sequence[Ticket[R]]) -> tuple[list[Outcome[R]], bool]:
    """Compute items together; halves of a batch that fails are computed by themselves, down to the single item that is to blame.

    Returns:
        One outcome an item, and whether the batch succeeded at the first go.
    """
    began = time.monotonic()
    try:
        results = compute(tickets[0].work.lane, [ticket.work.payload for ticket in tickets])
        if len(results) != len(tickets):
            raise RuntimeError(f"the engine gave {len(results)} results for {len(tickets)} items")
    except ItemsLostError as error:  # the engine says itself which items, and why: trying again would cost and change nothing
        return _partly_lost(tickets, error, time.monotonic() - began), False
    except Exception as error:  # an engine may fail in any way; the others of the batch must not pay for it
        if len(tickets) > 1:
            log.warning("batch failed, computing its halves", items=len(tickets), error=repr(error))
            middle = len(tickets) // 2
            return [outcome for half in (tickets[:middle], tickets[middle:]) for outcome in compute_batch(compute, half)[0]], False
        log.exception("item failed in the engine")
        lost = absence(pb.ABSENCE_REASON_INFRASTRUCTURE, f"the engine failed: {type(error).__name__}: {error}")
        return [Outcome(tickets[0], None, lost, time.monotonic() - began, 0)], False
    seconds = time.monotonic() - began
    return [Outcome(ticket, result, None, seconds, tokens) for ticket, (result, tokens) in zip(tickets, results, strict=True)], True


def _partly_lost(tickets: Sequence[Ticket[R]], error: ItemsLostError, seconds: float) -> list[Outcome[R]]:
    log.warning("the engine lost items", items=len(tickets), error=str(error))
    outcomes = []
    for ticket, result in zip(tickets, error.results, strict=True):
        value, lost, tokens = (None, result, 0) if isinstance(result, pb.Absence) else (result[0], None, result[1])
        outcomes.append(Outcome(ticket, value, lost, seconds, tokens))
    return outcomes
