"""How a command ends when something expected goes wrong: a message on stderr, an exit code, no traceback."""

from __future__ import annotations

import typing

import typer

USAGE = 2
"""Exit code of a mistake in what the user wrote."""


def fail(message: object, code: int = 1) -> typing.NoReturn:
    """Print the message and end the command."""
    typer.echo(f"rewardmesh: {message}", err=True)
    raise typer.Exit(code)
