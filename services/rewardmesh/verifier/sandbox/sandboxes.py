"""What verifiers get to run untrusted code with: warm boxes of the runtime that works here, the languages, and the server's limits."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rewardmesh.serving.logs import get_logger
from rewardmesh.verifier.sandbox.box import Box
from rewardmesh.verifier.sandbox.bubblewrap import Bubblewrap
from rewardmesh.verifier.sandbox.bundle import bundle
from rewardmesh.verifier.sandbox.gvisor import GVisor
from rewardmesh.verifier.sandbox.languages import Language, Missing, binds_of, find_languages
from rewardmesh.verifier.sandbox.limits import Ending, Limits, Run, SandboxError
from rewardmesh.verifier.sandbox.memo import Memo
from rewardmesh.verifier.sandbox.metrics import OVERHEAD_SECONDS, RUNS
from rewardmesh.verifier.sandbox.runtime import Runtime, reachable
from rewardmesh.verifier.sandbox.unsandboxed import Unsandboxed
from rewardmesh.verifier.sandbox.usage import can_watch
from rewardmesh.verifier.sandbox.warm import WarmBoxes

log = get_logger(__name__)

Wanted = Literal["auto", "bubblewrap", "gvisor", "unsandboxed"]
REMEDY = (
    "install bubblewrap (apt-get install bubblewrap) or gVisor (apt-get install runsc) where user namespaces are allowed, "
    "or say sandbox: unsandboxed to run untrusted code without any protection"
)


@dataclass(frozen=True)
class SandboxConfig:
    """What a server allows its sandboxes."""

    wanted: Wanted = "auto"
    stock: int = 4
    """Boxes that are kept started."""
    disk_bytes: int = 2**26
    budget_s: float = 50.0
    """Wall time that all tests of one candidate may take together."""
    most: Limits = field(default_factory=Limits)
    """Greatest limits that a caller may ask for."""
    cache_bytes: int = 2**28
    python: Path | None = None
    """Interpreter of programs; None for the server's own where sandboxes can see it, else the system's."""


class Sandboxes:
    """Made by `open_sandboxes`; close it."""

    def __init__(self, config: SandboxConfig, runtime: Runtime | None, languages: Mapping[str, Language | Missing], why: str) -> None:
        self.config = config
        self.languages = languages
        self.memo = Memo(config.cache_bytes)
        """For what is known of programs: compiled ones, and their results."""
        self._runtime = runtime
        self._why = why
        self._warm = WarmBoxes(runtime, config.stock) if runtime else None

    @property
    def name(self) -> str:
        """Of the runtime; empty when there is none."""
        return self._runtime.name if self._runtime else ""

    @property
    def pids(self) -> list[int]:
        """Process ids of the runtimes of all boxes."""
        return self._warm.pids if self._warm else []

    def box(self, *, compiler: bool = False) -> AbstractAsyncContextManager[Box]:
        """A fresh box for one candidate (see `Runtime.start`); raises SandboxError where there is no runtime, or it cannot start one."""
        if self._warm is None:
            raise SandboxError(self._why)
        return self._warm.box(compiler=compiler)

    def count(self, ending: Ending) -> None:
        """Count how a program ended."""
        RUNS.labels(self.name, ending).inc()

    def observe(self, run: Run) -> None:
        """Count a program that was run."""
        self.count(run.ending)
        OVERHEAD_SECONDS.labels(self.name).observe(run.overhead_s)

    async def try_one(self) -> None:
        """Start the first box, as a trial. Raises SandboxError."""
        if self._warm:
            await self._warm.try_one()

    async def close(self) -> None:
        """Kill all boxes, and remove what the runtime has written. Safe to call twice."""
        if self._warm:
            await self._warm.close()
        if self._runtime:
            self._runtime.close()


async def open_sandboxes(config: SandboxConfig) -> Sandboxes:
    """The runtime that is wanted, tried by starting a box; with `auto` the first that works, or none (then every check is an absence).

    Raises:
        SandboxError: a runtime that is wanted by name does not work.
    """
    languages = await asyncio.to_thread(find_languages)
    tools = binds_of(list(languages.values()))
    names = ("bubblewrap", "gvisor") if config.wanted == "auto" else (config.wanted,)
    failures = []
    for name in names:
        for python in _interpreters(config.python):
            try:
                runtime = await asyncio.to_thread(_runtime, name, python, tools, config.disk_bytes)
                sandboxes = Sandboxes(config, runtime, languages, "")
                try:
                    await sandboxes.try_one()
                except BaseException:
                    await sandboxes.close()
                    raise
            except SandboxError as error:
                failures.append(f"{name}: {error}")
                continue
            if name == "unsandboxed":
                log.warning("untrusted code runs WITHOUT A SANDBOX, as the server's own user, because the configuration says so")
            return sandboxes
    why = f"no sandbox works here ({'; '.join(failures)}): {REMEDY}"
    if config.wanted != "auto":
        raise SandboxError(why)
    log.warning("no sandbox works here: verifiers that run code answer with absences", failures=failures, remedy=REMEDY)
    return Sandboxes(config, None, languages, why)


def _runtime(name: str, python: Path, tools: list[Path], disk_bytes: int) -> Runtime:
    if not can_watch():
        raise SandboxError("the kernel does not tell the children of processes (CONFIG_PROC_CHILDREN), so no limit could be watched")
    made = bundle(python)
    binds = _python_bind(python)
    if name == "bubblewrap":
        return Bubblewrap(made, binds, tools, disk_bytes)
    if name == "gvisor":
        return GVisor(made, binds, tools, disk_bytes)
    return Unsandboxed(made)


def _interpreters(wanted: Path | None) -> list[Path]:
    if wanted is not None:
        return [wanted]
    own = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return [path for path in (own, Path("/usr/bin/python3")) if path.exists() and reachable(path)]


def _python_bind(python: Path) -> list[Path]:
    """The folder that an interpreter outside /usr needs: its prefix, with bin and lib."""
    real = python.resolve()
    return [] if real.is_relative_to("/usr") else [real.parent.parent]
