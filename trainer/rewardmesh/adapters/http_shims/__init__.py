"""HTTP shims: a reward service or a gateway that answers as OpenRLHF's and vLLM's own servers do.

These protocols have no word for a score that is absent. A call with an absent score is refused as a whole, with the reasons, so that a
trainer asks again instead of learning from a 0 that nobody gave.
"""

from rewardmesh.adapters.http_shims.app import shim_app
from rewardmesh.adapters.http_shims.config import ShimConfig
from rewardmesh.adapters.http_shims.run import run_shim

__all__ = ["ShimConfig", "run_shim", "shim_app"]
