"""What users would pick instead, each set up as its own documentation advises and asked with token ids.

What they serve is in `apps`, which runs in virtual environments of their own.
"""

from benchmarks.scoring.contender import Contender
from benchmarks.scoring.peers.http import FastAPI, LitServe, RayServe
from benchmarks.scoring.peers.triton import Triton
from benchmarks.scoring.peers.vllm import VLLM

VLLM_NAMES = ("vllm-prefix", "vllm-plain")
PADDED_NAMES = ("triton", "ray", "litserve", "fastapi")
FAMILIES = {"vllm": VLLM_NAMES, **{name: (name,) for name in PADDED_NAMES}}
"""What `--peers` takes, and the contenders it stands for."""


def make_peers(families: list[str]) -> list[Contender]:
    """Contenders of the named families.

    Raises:
        ValueError: an unknown name.
    """
    every: list[Contender] = [VLLM(prefix_caching=True), VLLM(prefix_caching=False), Triton(), RayServe(), LitServe(), FastAPI()]
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown:
        raise ValueError(f"unknown peer {unknown[0]!r}; known: {', '.join(FAMILIES)}")
    wanted = {name for family in families for name in FAMILIES[family]}
    return [peer for peer in every if peer.name in wanted]
