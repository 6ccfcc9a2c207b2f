"""The `rewardmesh` command; importing this package costs nothing, every command imports what it needs when it runs."""

import os
import sys

from rewardmesh.cli.missing import missing_dependency

__all__ = ["main"]


def main() -> None:
    """Run the command line: `rewardmesh = "rewardmesh.cli:main"`."""
    # Threads of a service that waits must not spin: on a busy machine that slows every process a mesh has many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # gRPC's handlers at a fork sometimes abort the child of a server that starts a worker; ours execute another program at once.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        from rewardmesh.cli.app import app

        app(prog_name="rewardmesh")
    except ModuleNotFoundError as error:
        line = missing_dependency(error)
        if line is None:
            raise
        print(f"rewardmesh: {line}", file=sys.stderr)
        raise SystemExit(1) from None
