"""`rewardmesh doctor`: what this machine has, what is missing, and the command that installs it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer

from rewardmesh.cli.missing import DISTRIBUTION, requirements

Verdict = Literal["ok", "absent", "missing"]
"""absent: something optional that is not there; missing: nothing works without it."""

_STYLES = {"ok": "green", "absent": "yellow", "missing": "red"}
_GIB = 2**30
_LOW_DISK_BYTES = 2 * _GIB
_LOW_MEMORY_BYTES = 2 * _GIB


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    area: str
    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False) -> None:
    """Check Python, packages by extra, torch's device, disk, memory, ports and tools. Exit code 1 only if a base requirement is missing."""
    findings = list(examine())
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    if any(finding.verdict == "missing" for finding in findings):
        raise typer.Exit(1)


def examine() -> Iterator[Finding]:
    """Everything worth knowing, base requirements first."""
    version = ".".join(map(str, sys.version_info[:3]))
    recent = sys.version_info >= (3, 11)
    yield Finding("base", "python", "ok" if recent else "missing", version, "" if recent else "install Python 3.11 or newer")
    yield from _packages()
    yield _torch()
    yield _compiled()
    yield from _machine()
    yield _tool("buf", f"pip install '{DISTRIBUTION}[dev]'")
    yield _tool("kubectl", "see https://kubernetes.io/docs/tasks/tools/")
    yield from _sandboxes()


def _packages() -> Iterator[Finding]:
    seen: set[str] = set()
    for extra, names in requirements().items():
        for name in names:
            if name in seen:
                continue
            seen.add(name)
            try:
                yield Finding(extra or "base", name, "ok", metadata.version(name))
            except metadata.PackageNotFoundError:
                where = f"{DISTRIBUTION}[{extra}]" if extra else DISTRIBUTION
                yield Finding(extra or "base", name, "absent" if extra else "missing", "not installed", f"pip install '{where}'")


def _torch() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("machine", "torch device", "absent", "torch is not installed", f"pip install '{DISTRIBUTION}[serve]'")
    import torch

    if torch.cuda.is_available():
        devices = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Finding("machine", "torch device", "ok", f"cuda: {devices}")
    return Finding("machine", "torch device", "ok", f"cpu, {torch.get_num_threads()} threads")


def _compiled() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("machine", "compiled forward", "absent", "torch is not installed", f"pip install '{DISTRIBUTION}[serve]'")
    from rewardmesh.engine.native import NativeError, library

    try:
        return Finding("machine", "compiled forward", "ok", library.library()._name)
    except NativeError as error:
        return Finding("machine", "compiled forward", "absent", str(error), "without it torch computes, at about half the speed")


def _machine() -> Iterator[Finding]:
    from rewardmesh.cli.ports import free_port

    free = shutil.disk_usage(Path.cwd()).free
    enough = free >= _LOW_DISK_BYTES
    yield Finding(
        "machine", "free disk", "ok" if enough else "absent", f"{free / _GIB:.1f} GiB", "" if enough else "free some: runs keep checkpoints"
    )
    memory = _available_memory()
    enough = memory >= _LOW_MEMORY_BYTES
    yield Finding(
        "machine", "free memory", "ok" if enough else "absent", f"{memory / _GIB:.1f} GiB", "" if enough else "the demo needs about 2 GiB"
    )
    try:
        yield Finding("machine", "loopback port", "ok", f"127.0.0.1:{free_port('127.0.0.1', set())} is free")
    except OSError as error:
        yield Finding("machine", "loopback port", "absent", str(error), "allow listening on 127.0.0.1")


def _available_memory() -> int:
    """Bytes that could be used without swapping; all there is where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _sandboxes() -> Iterator[Finding]:
    """What the verifiers that run code can use, tried by running it."""
    if any(importlib.util.find_spec(name) is None for name in ("cachetools", "prometheus_client", "structlog")):
        yield Finding("sandboxes", "bubblewrap, gvisor", "absent", "not tried", f"pip install '{DISTRIBUTION}[serve]'")
        return
    from rewardmesh.verifier.sandbox.languages import Language
    from rewardmesh.verifier.sandbox.limits import SandboxError
    from rewardmesh.verifier.sandbox.sandboxes import SandboxConfig, open_sandboxes
    from rewardmesh.verifier.sandbox.seccomp import compiled

    async def tried(wanted: Literal["bubblewrap", "gvisor"]) -> Mapping[str, object]:
        opened = await open_sandboxes(SandboxConfig(wanted=wanted, stock=0))
        await opened.close()
        return opened.languages

    languages: Mapping[str, object] = {}
    runtimes: tuple[Literal["bubblewrap", "gvisor"], ...] = ("bubblewrap", "gvisor")
    for wanted in runtimes:
        try:
            languages = asyncio.run(tried(wanted))
            yield Finding("sandboxes", wanted, "ok", "runs Python")
        except SandboxError as error:
            yield Finding("sandboxes", wanted, "absent", str(error), "see docs/sandbox.md")
    filters = compiled() is not None
    yield Finding("sandboxes", "seccomp filter", "ok" if filters else "absent", "libseccomp" if filters else "no libseccomp", "")
    for name, found in languages.items():
        if isinstance(found, Language):
            yield Finding("sandboxes", name, "ok", (found.compile or found.run or ("python",))[0])
        else:
            yield Finding("sandboxes", name, "absent", "not installed", str(getattr(found, "remedy", "")))


def _tool(name: str, remedy: str) -> Finding:
    beside_python = Path(sys.executable).parent
    path = shutil.which(name) or shutil.which(name, path=str(beside_python))
    return Finding("tools", name, "ok", path) if path else Finding("tools", name, "absent", "not found", remedy)


def _print(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("", "name", "verdict", "found", "what to do"):
        table.add_column(column, overflow="fold")
    area = ""
    for finding in findings:
        if area and finding.area != area:
            table.add_section()
        verdict = Text(finding.verdict, style=_STYLES[finding.verdict])
        table.add_row("" if finding.area == area else finding.area, finding.name, verdict, finding.found, Text(finding.remedy))
        area = finding.area
    Console().print(table)
