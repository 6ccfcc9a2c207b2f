"""The kinds of service a mesh is made of; their packages are imported when one is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rewardmesh.serving.config import ServerConfig
    from rewardmesh.serving.server import Server

KINDS = {
    "reward": "A sequence-classification model as reward model.",
    "judge": "A language model that compares and grades answers.",
    "panel": "Several judges asked as one: juries, cascades, debates.",
    "verifier": "Programs that check answers by rule: math, regex, length, your own.",
    "logprob": "Frozen policies: log-probabilities of given tokens.",
    "generation": "A policy that writes completions, with ids and log-probabilities.",
    "gateway": "Reward programs over the other services.",
}


def config_class(kind: str) -> type[ServerConfig]:
    """The configuration of a kind."""
    found: type[ServerConfig] = importlib.import_module(f"rewardmesh.{kind}").Config
    return found


def server_factory(kind: str) -> Callable[[ServerConfig], Awaitable[Server]]:
    """What makes a server of a kind."""
    found: Callable[[ServerConfig], Awaitable[Server]] = importlib.import_module(f"rewardmesh.{kind}").create_server
    return found
