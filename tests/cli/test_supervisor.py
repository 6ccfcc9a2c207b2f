"""A mesh of processes survives the death of its services, and no process survives the mesh."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rewardmesh.cli.mesh_file import MeshFile
from rewardmesh.cli.supervisor import MeshFailed, Supervisor
from rewardmesh.client import AsyncClient, sample
from rewardmesh.serving import ConfigError

from .conftest import Start, alive, family, interrupt, mesh_state, ready_mesh, serving, until

MESH = """
log_dir: logs
services:
  one: {kind: verifier, workers: 1}
  two: {kind: verifier, workers: 1}
restart: {backoff_seconds: 0.05}
"""


def write_mesh(tmp_path: Path, text: str = MESH) -> Path:
    path = tmp_path / "mesh.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def make_mesh(tmp_path: Path, **changes: object) -> MeshFile:
    services = {name: {"kind": "verifier", "workers": 1} for name in ("one", "two")}
    return MeshFile.parse({"log_dir": tmp_path / "logs", "services": services, "restart": {"backoff_seconds": 0.05}, **changes})


async def test_library_use(tmp_path: Path) -> None:
    changed = asyncio.Event()
    async with Supervisor(make_mesh(tmp_path), on_change=changed.set) as mesh:
        await mesh.wait_ready(timeout_s=60)
        async with AsyncClient(mesh.addresses["one"]) as client:
            verdicts = await client.verify([sample("a", "2+2?", "A: 4", references=["4"])], "math")
        assert verdicts[0].value == 1
        before = mesh.pids
        os.kill(before["two"], signal.SIGKILL)
        async with asyncio.timeout(60):
            while mesh.restarts["two"] < 1:
                changed.clear()
                await changed.wait()
        await mesh.wait_ready(timeout_s=60)
        assert mesh.pids["two"] != before["two"]
        assert mesh.pids["one"] == before["one"]
        assert mesh.restarts == {"one": 0, "two": 1}
        pids = set().union(*(family(pid) for pid in mesh.pids.values()))
        assert len(pids) >= 4  # each server and its worker
    assert mesh.states == {"one": "STOPPED", "two": "STOPPED"}
    until(lambda: not any(map(alive, pids)), "every process is gone", 10)
    assert not (tmp_path / "logs" / "mesh-state.json").exists()


async def test_stop_before_ready_and_twice(tmp_path: Path) -> None:
    mesh = Supervisor(make_mesh(tmp_path))
    await mesh.start()
    await mesh.stop()
    await mesh.stop()
    assert mesh.pids == {}


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_service_that_hangs_is_killed(tmp_path: Path, cancelled: bool) -> None:
    mesh = Supervisor(make_mesh(tmp_path))
    await mesh.start()
    await mesh.wait_ready(timeout_s=60)
    pids = set().union(*(family(pid) for pid in mesh.pids.values()))
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    if cancelled:  # as by a second Ctrl-C
        stopping = asyncio.create_task(mesh.stop(grace_s=60))
        await asyncio.sleep(0.1)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
    else:
        await mesh.stop(grace_s=0.2)
    until(lambda: not any(map(alive, pids)), "every process is gone", 10)


async def test_work_ends_with_the_mesh_it_needs(tmp_path: Path) -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    async def short() -> int:
        return 3

    async with Supervisor(make_mesh(tmp_path, restart={"max_restarts": 0})) as mesh:
        assert await mesh.unless_failed(short()) == 3
        await mesh.wait_ready(timeout_s=60)
        working = asyncio.create_task(mesh.unless_failed(forever()))
        os.kill(mesh.pids["one"], signal.SIGKILL)
        with pytest.raises(MeshFailed, match="one was killed by SIGKILL"):
            await asyncio.wait_for(working, 60)
        assert mesh.pids == {}


async def test_two_meshes_do_not_share_a_log_dir(tmp_path: Path) -> None:
    async with Supervisor(make_mesh(tmp_path)):
        other = Supervisor(make_mesh(tmp_path))
        with pytest.raises(MeshFailed, match="another mesh is running"):
            await other.start()


async def test_too_slow_is_reported_with_the_log(tmp_path: Path) -> None:
    async with Supervisor(make_mesh(tmp_path)) as mesh:
        with pytest.raises(MeshFailed, match=r"not ready after 0\.01 s"):
            await mesh.wait_ready(timeout_s=0.01)


def test_a_taken_port_is_named(tmp_path: Path, unused_tcp_port: int) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", unused_tcp_port))
        taken.listen()
        with pytest.raises(ConfigError, match=rf"mesh: services\.one\.port: {unused_tcp_port} is taken"):
            Supervisor(MeshFile.parse({"log_dir": tmp_path, "services": {"one": {"kind": "verifier", "port": unused_tcp_port}}}))


def test_up_restarts_what_is_killed_and_drains_on_sigterm(tmp_path: Path, start: Start) -> None:
    write_mesh(tmp_path)
    process = start("up", "mesh.yaml")
    before = ready_mesh(tmp_path / "logs")
    os.kill(before["one"]["pid"], signal.SIGKILL)
    until(lambda: mesh_state(tmp_path / "logs")["one"]["restarts"] == 1, "the restart is counted")
    after = ready_mesh(tmp_path / "logs")
    assert after["one"]["pid"] != before["one"]["pid"]
    assert after["one"]["address"] == before["one"]["address"]
    shown = start("status", "mesh.yaml")
    out, _ = shown.communicate(timeout=30)
    assert shown.returncode == 0
    assert out.count("SERVING") == 2
    pids = family(process.pid) - {process.pid}
    code, out, err = interrupt(process)
    assert code == 0, err
    assert "ready: 2 services" in out
    assert "one: RESTARTING" in out
    assert not any(map(alive, pids))
    gone = start("status", "mesh.yaml")
    assert "no mesh is running" in gone.communicate(timeout=30)[1]
    assert gone.returncode == 1


def test_killed_supervisor_takes_its_services_with_it(tmp_path: Path, start: Start) -> None:
    write_mesh(tmp_path)
    process = start("up", "mesh.yaml")
    ready_mesh(tmp_path / "logs")
    pids = family(process.pid)
    assert len(pids) >= 5
    process.kill()
    until(lambda: not any(map(alive, pids)), "every process is gone", 15)


def test_orphan_from_the_first_moment_ends() -> None:
    child = subprocess.run(
        [sys.executable, "-m", "rewardmesh.cli.child", "1", "version"], capture_output=True, text=True, timeout=30, check=False
    )
    assert (child.returncode, child.stdout) == (1, "")


def test_crash_loop_gives_up_with_the_log(tmp_path: Path, start: Start) -> None:
    crashing = "  bad: {kind: verifier, workers: 1, verifier_packages: [no_such_package]}\n"
    text = MESH.replace("restart: {", "restart: {max_restarts: 1, ").replace("  two:", crashing + "  two:")
    write_mesh(tmp_path, text)
    process = start("up", "mesh.yaml")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "bad exited with code" in err
    assert "crash 2 within 60 s" in err
    assert "no_such_package" in err
    assert "bad: FAILED" in out
    assert "one: STOPPED" in out
    assert not serving("127.0.0.1:1")
    assert mesh_state(tmp_path / "logs") == {}
