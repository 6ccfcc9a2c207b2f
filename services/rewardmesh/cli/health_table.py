"""The health of a mesh for people: a live table in a terminal, one line a change elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rewardmesh.cli.supervisor import Supervisor

_STYLES = {"SERVING": "green", "STARTING": "yellow", "RESTARTING": "yellow", "NOT_SERVING": "yellow", "DRAINING": "yellow"}


@dataclass(frozen=True)
class HealthRow:
    """One service as shown."""

    name: str
    kind: str
    state: str
    address: str
    pid: int | None
    restarts: int


def health_table(rows: list[HealthRow]) -> Table:
    """A row a service."""
    table = Table()
    for column in ("service", "kind", "health", "address", "pid", "restarts"):
        table.add_column(column, overflow="fold", justify="right" if column in {"pid", "restarts"} else "left")
    for row in rows:
        health = Text(row.state, style=_STYLES.get(row.state, "red"))
        table.add_row(Text(row.name), Text(row.kind), health, row.address, str(row.pid or "–"), str(row.restarts))
    return table


def rows_of(mesh: Supervisor) -> list[HealthRow]:
    """The state of a running mesh."""
    return [
        HealthRow(name, mesh.mesh.services[name].kind, service.state, service.address, service.pid, service.restarts)
        for name, service in mesh.services.items()
    ]


class HealthDisplay:
    """Shows a mesh while it runs; a context manager. Call `update` after every change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._mesh: Supervisor | None = None
        self._live = Live(get_renderable=self._render, console=console, auto_refresh=False) if console.is_terminal else None
        self._shown: Mapping[str, HealthRow] = {}

    def show(self, mesh: Supervisor) -> None:
        """Begin to show a mesh."""
        self._mesh = mesh
        self.update()

    def __enter__(self) -> HealthDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live:
            self._live.stop()

    def update(self) -> None:
        """Show the state of now."""
        if self._live:
            self._live.refresh()
        elif self._mesh:
            for row in rows_of(self._mesh):
                unborn = row.state == "STARTING" and row.pid is None
                if self._shown.get(row.name) != row and not unborn:
                    line = f"{row.name}: {row.state} {row.kind} {row.address} pid {row.pid or '-'} restarts {row.restarts}"
                    self._console.print(line, highlight=False, soft_wrap=True)
            self._shown = {row.name: row for row in rows_of(self._mesh)}

    def _render(self) -> RenderableType:
        return health_table(rows_of(self._mesh)) if self._mesh else ""
