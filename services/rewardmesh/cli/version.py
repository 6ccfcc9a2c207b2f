"""`rewardmesh version`."""

from __future__ import annotations

import typer


def version() -> None:
    """Print the version."""
    from importlib import metadata

    typer.echo(metadata.version("rewardmesh"))
