"""The whole batching policy: who waits, who is refused, what is computed together.

`work` says what an item is, `queue` and `tenants` keep what waits in order, `forming` cuts batches, `admission` refuses, `cost` knows
how long things take, `computing` runs the engine, `workers` are the threads that do it, `batcher` puts them together.
"""

from rewardmesh.serving.batching.batcher import Batcher, BatcherOptions
from rewardmesh.serving.batching.work import Done, Ticket, Work

__all__ = ["Batcher", "BatcherOptions", "Done", "Ticket", "Work"]
