"""A verifier server inside this process, for commands that need one just for their own run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rewardmesh.cli.local_server import local_server
from rewardmesh.verifier import VerifierConfig, create_server


@contextmanager
def local_verifier() -> Iterator[str]:
    """Serve on the loopback while the block runs; gives the address."""
    config = VerifierConfig(host="127.0.0.1", port=0, metrics_port=0, drain_seconds=1)
    with local_server(lambda: create_server(config)) as address:
        yield address
