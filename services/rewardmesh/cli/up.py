"""`rewardmesh up` runs a whole mesh as local processes; `rewardmesh status` asks one that runs for its health."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewardmesh.cli.failure import USAGE, fail

if TYPE_CHECKING:
    from rich.console import Console

    from rewardmesh.cli.health_table import HealthRow
    from rewardmesh.cli.mesh_file import MeshFile
    from rewardmesh.cli.supervisor import Supervisor

MeshPath = Annotated[Path, typer.Argument(help="mesh.yaml", exists=True, dir_okay=False, metavar="MESH.YAML")]


def up(
    mesh_path: MeshPath,
    ready_seconds: Annotated[float, typer.Option(help="longest time until all services are ready")] = 300.0,
) -> None:
    """Run all services of a mesh as supervised processes of this machine.

    A crashed service is started again; Ctrl-C drains them all. Logs are in the mesh's log_dir, one file a service.
    """
    from rich.console import Console

    from rewardmesh.cli.mesh_file import MeshFile
    from rewardmesh.cli.supervisor import MeshFailed
    from rewardmesh.serving.config import ConfigError
    from rewardmesh.serving.logs import configure_logging

    configure_logging("up", level="error")  # the table tells what the warnings would
    try:
        asyncio.run(_up(MeshFile.load(mesh_path), ready_seconds, Console()))
    except ConfigError as error:
        fail(error, USAGE)
    except MeshFailed as error:
        fail(error)
    except asyncio.CancelledError:
        fail("stopped at once")


async def _up(mesh_file: MeshFile, ready_seconds: float, console: Console) -> None:
    from rewardmesh.cli.health_table import HealthDisplay
    from rewardmesh.cli.supervisor import Supervisor

    loop = asyncio.get_running_loop()
    running = asyncio.current_task()
    assert running is not None
    wanted = asyncio.Event()

    def stop_signal() -> None:
        if wanted.is_set():  # asked twice: do not wait for the drain
            running.cancel()
        wanted.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_signal)

    with HealthDisplay(console) as display:
        async with Supervisor(mesh_file, on_change=display.update) as mesh:
            display.show(mesh)
            work = asyncio.create_task(_watch(mesh, ready_seconds, console))
            stopping = asyncio.create_task(wanted.wait())
            await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not work.done():
                work.cancel()
                console.print("draining; once more to stop at once")
            await asyncio.gather(work, return_exceptions=not work.done())


async def _watch(mesh: Supervisor, ready_seconds: float, console: Console) -> None:
    await mesh.wait_ready(ready_seconds)
    console.print(f"ready: {len(mesh.services)} services; logs in {mesh.log_dir}; Ctrl-C stops them", highlight=False)
    await mesh.wait_failed()


def status(
    path: Annotated[Path, typer.Argument(help="mesh.yaml, or the mesh-state.json in its log_dir", exists=True, dir_okay=False)],
) -> None:
    """Show the health of a running mesh; exit code 1 when a service is not serving."""
    from rich.console import Console

    from rewardmesh.cli.health_table import health_table
    from rewardmesh.cli.mesh_file import MeshFile
    from rewardmesh.cli.supervisor import STATE_FILE
    from rewardmesh.serving.config import ConfigError

    try:
        state_path = path if path.suffix == ".json" else MeshFile.load(path).log_dir / STATE_FILE
        state = json.loads(state_path.read_text(encoding="utf-8"))
        rows = [_ask(service) for service in state["services"]]
    except FileNotFoundError as error:
        fail(f"no mesh is running: {error.filename} is missing")
    except ConfigError as error:
        fail(error, USAGE)
    except (ValueError, KeyError, TypeError) as error:
        fail(f"{state_path}: is not the state of a mesh: {error}", USAGE)
    Console().print(health_table(rows))
    if any(row.state != "SERVING" for row in rows):
        raise typer.Exit(1)


def _ask(service: dict[str, Any]) -> HealthRow:
    from rewardmesh.cli.health_table import HealthRow
    from rewardmesh.client import CallFailed, Client

    try:
        with Client(service["address"], timeout_s=2.0) as client:
            state: str = client.health()
    except CallFailed:
        state = "UNREACHABLE"
    return HealthRow(service["name"], service["kind"], state, service["address"], service["pid"], service["restarts"])
