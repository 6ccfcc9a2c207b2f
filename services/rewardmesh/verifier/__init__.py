"""The verifier service: programs that check an answer by rule, run on untrusted text in processes that can be killed.

Attributes load on first use, because every worker process imports this package and must not pay for gRPC and its helpers.
A new verifier is one file in `verifiers/` and its test (see `verifiers/length.py` for a short one).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewardmesh.verifier.config import VerifierConfig
    from rewardmesh.verifier.config import VerifierConfig as Config
    from rewardmesh.verifier.service import create_server

__all__ = ["Config", "VerifierConfig", "create_server"]


def __getattr__(name: str) -> Any:
    if name in {"Config", "VerifierConfig"}:
        from rewardmesh.verifier.config import VerifierConfig

        return VerifierConfig
    if name == "create_server":
        from rewardmesh.verifier.service import create_server

        return create_server
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
