"""The packed forward on the CPU as one call: attention over the plan and everything between two products, in C++.

`decoder.cpp` is compiled for the processor when a model is first served, which takes two seconds, and kept in the user's cache. It computes
what it can: float32 on a CPU, an architecture that `layers` can read; and only after its hidden states have been found to be those of the
model. Everything else is computed by torch, through `attention`. Its results are the same to the bit in whatever batch a sequence is.
"""

from rewardmesh.engine.native.decoder import NativeDecoder
from rewardmesh.engine.native.library import NativeError

__all__ = ["NativeDecoder", "NativeError"]
