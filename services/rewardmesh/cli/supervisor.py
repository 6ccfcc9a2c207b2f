"""All of a mesh as processes of this machine: started, watched, started again when they crash, and never left behind.

async with Supervisor(MeshFile.load(Path("mesh.yaml"))) as mesh:
    await mesh.wait_ready(timeout_s=120)
    print(mesh.addresses["gateway"])
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import IO, Any, NoReturn, Self, TypeVar

import yaml

from rewardmesh.cli.mesh_file import MeshFile, ServiceEntry
from rewardmesh.cli.ports import free_port, is_free
from rewardmesh.cli.references import references
from rewardmesh.cli.service_process import ServiceFailed, ServiceProcess, State
from rewardmesh.serving.config import ConfigError
from rewardmesh.serving.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")

STATE_FILE = "mesh-state.json"
GRACE_S = 40.0
"""Longest wait for a service to drain; a little more than servers take by default."""


class MeshFailed(Exception):
    """The mesh cannot run, or ran and was given up; the message holds the last log lines of the culprit."""


class Supervisor:
    """Runs the services of a mesh file; use it inside one event loop, whose thread must outlive it (the kernel ties the services to it).

    Args:
        mesh: what to run.
        on_change: called after every change of a service's state.

    Raises:
        ConfigError: a port that is taken.
    """

    def __init__(self, mesh: MeshFile, *, on_change: Callable[[], None] | None = None) -> None:
        self.mesh = mesh
        self.log_dir = mesh.log_dir
        self._on_change = on_change
        self._changed = asyncio.Event()
        self._failure: MeshFailed | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._taking_down: asyncio.Task[None] | None = None
        self._lock: IO[str] | None = None
        self.addresses: dict[str, str] = {}
        """gRPC address by service."""
        self.metrics_addresses: dict[str, str] = {}
        """Prometheus address by service."""
        self._ports: dict[str, tuple[int, int]] = {}
        self._choose_ports()
        self.services = {name: self._service(name) for name in mesh.services}

    @property
    def pids(self) -> dict[str, int]:
        """Process id of every service that has a process now."""
        return {name: service.pid for name, service in self.services.items() if service.pid is not None}

    @property
    def restarts(self) -> dict[str, int]:
        """How often each service was started again."""
        return {name: service.restarts for name, service in self.services.items()}

    @property
    def states(self) -> dict[str, State]:
        """What each service is doing."""
        return {name: service.state for name, service in self.services.items()}

    @property
    def places(self) -> dict[str, dict[str, str]]:
        """Addresses by service, as `substitute` takes them."""
        return {name: {"address": self.addresses[name], "metrics_address": self.metrics_addresses[name]} for name in self.services}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start every process; none is ready yet.

        Raises:
            MeshFailed: another mesh runs with this log_dir, or it cannot be written.
        """
        try:
            self.log_dir.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            for name, fields in self.mesh.resolve(self.places).items():
                self._config_path(name).write_text(yaml.safe_dump(_plain(fields), sort_keys=False), encoding="utf-8")
        except OSError as error:
            self._release_lock()
            raise MeshFailed(f"log_dir {self.log_dir}: {error.strerror or error}") from error
        except ConfigError:
            self._release_lock()
            raise
        self._tasks = [asyncio.create_task(self._keep(service), name=name) for name, service in self.services.items()]

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until every service reports SERVING.

        Raises:
            MeshFailed: it took longer, or a service was given up (then all are being stopped).
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    changed = self._changed
                    self._raise_failure()
                    if all(state == "SERVING" for state in self.states.values()):
                        return
                    await changed.wait()
        except TimeoutError:
            late = [service for service in self.services.values() if service.state != "SERVING"]
            tails = "\n".join(
                f"{service.name} is {service.state}; last lines of {service.log_path}:\n{service.log_tail()}" for service in late
            )
            raise MeshFailed(f"not ready after {timeout_s:g} s:\n{tails}") from None

    async def wait_failed(self) -> NoReturn:
        """Wait for ever; raises MeshFailed when a service is given up and all of them have been stopped."""
        while True:
            changed = self._changed
            if self._taking_down:
                await asyncio.shield(self._taking_down)
            self._raise_failure()
            await changed.wait()

    async def unless_failed(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work`; raises MeshFailed, with the work cancelled, when a service is given up before its end."""
        working = asyncio.create_task(work)
        failing = asyncio.create_task(self.wait_failed())
        try:
            await asyncio.wait((working, failing), return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else failing.result()
        finally:
            for task in (working, failing):
                task.cancel()
            await asyncio.gather(working, failing, return_exceptions=True)

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """Drain every service: those that call others first, SIGKILL after `grace_s`. Cancelled, it kills at once. Safe to call twice."""
        try:
            if self._taking_down:
                await self._taking_down
            await self._drain(grace_s)
        finally:
            for service in self.services.values():
                service.kill()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._lock:
                self._state_path.unlink(missing_ok=True)
            self._release_lock()

    async def _drain(self, grace_s: float) -> None:
        callers = {name for name, entry in self.mesh.services.items() if set(references(entry.fields)) - {name}}
        for wave in (callers, self.services.keys() - callers):
            await asyncio.gather(*(self.services[name].stop(grace_s) for name in wave if self._tasks))

    async def _keep(self, service: ServiceProcess) -> None:
        try:
            await service.run()
        except (ServiceFailed, OSError) as error:
            if self._failure is None:
                self._failure = MeshFailed(str(error))
                self._taking_down = asyncio.create_task(self._take_down(service))
            self._notify()

    async def _take_down(self, culprit: ServiceProcess) -> None:
        await asyncio.gather(*(service.stop(GRACE_S) for service in self.services.values() if service is not culprit))

    def _raise_failure(self) -> None:
        if self._failure:
            raise self._failure

    def _notify(self) -> None:
        if self._lock:
            try:
                self._write_state()
            except OSError as error:
                log.warning("the state file cannot be written", path=str(self._state_path), error=str(error))
        self._changed.set()
        self._changed = asyncio.Event()
        if self._on_change:
            self._on_change()

    def _choose_ports(self) -> None:
        taken = {port for entry in self.mesh.services.values() for port in (entry.port, entry.metrics_port) if port}
        for name, entry in self.mesh.services.items():
            for field in ("port", "metrics_port"):
                port = getattr(entry, field)
                if port and not is_free(entry.host, port):
                    raise ConfigError(f"{self.mesh.source}: services.{name}.{field}: {port} is taken on {entry.host}")
            port, metrics_port = (wanted or free_port(entry.host, taken) for wanted in (entry.port, entry.metrics_port))
            reached = "127.0.0.1" if entry.host in {"0.0.0.0", "[::]", "::"} else entry.host
            self._ports[name] = port, metrics_port
            self.addresses[name], self.metrics_addresses[name] = f"{reached}:{port}", f"{reached}:{metrics_port}"

    def _service(self, name: str) -> ServiceProcess:
        entry: ServiceEntry = self.mesh.services[name]
        port, metrics_port = self._ports[name]
        # Addresses as flags: they must win over the environment, since others have been told.
        places = ["--host", entry.host, "--port", str(port), "--metrics-port", str(metrics_port)]
        arguments = ["serve", entry.kind, "--config", str(self._config_path(name)), *places]
        return ServiceProcess(name, arguments, self.addresses[name], self.log_dir / f"{name}.log", self.mesh.restart, self._notify)

    def _config_path(self, name: str) -> Path:
        return self.log_dir / f"{name}.yaml"

    @property
    def _state_path(self) -> Path:
        return self.log_dir / STATE_FILE

    def _take_lock(self) -> None:
        lock = (self.log_dir / "mesh.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise MeshFailed(f"log_dir {self.log_dir}: another mesh is running with it") from None
        self._lock = lock

    def _release_lock(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    def _write_state(self) -> None:
        """For `rewardmesh status` and whoever waits for the mesh: names, kinds, states, addresses, process ids."""
        services = [
            {
                "name": name,
                "kind": self.mesh.services[name].kind,
                "state": service.state,
                "address": service.address,
                "metrics_address": self.metrics_addresses[name],
                "pid": service.pid,
                "restarts": service.restarts,
                "log": str(service.log_path),
            }
            for name, service in self.services.items()
        ]
        partial = self._state_path.with_suffix(".partial")
        partial.write_text(json.dumps({"supervisor_pid": os.getpid(), "services": services}, indent=2), encoding="utf-8")
        partial.replace(self._state_path)


def _plain(value: Any) -> Any:
    """`value` as YAML can hold it: paths as strings."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
