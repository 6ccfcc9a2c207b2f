"""What the processes of a sandbox use together, read from /proc of the host."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Usage:
    """Of a process and all its descendants."""

    memory_bytes: int = 0
    """Resident pages, each process's counted in full."""
    tasks: int = 0
    cpu_s: float = 0.0
    """Of live processes and of children they have waited for."""
    pids: tuple[int, ...] = ()


def usage_of(root: int) -> Usage:
    """What `root` and its descendants use now; processes that end meanwhile are left out."""
    total = Usage()
    pids: list[int] = []
    pending = [root]
    while pending:
        pid = pending.pop()
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            pending.extend(_children(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
        pids.append(pid)
        total.cpu_s += sum(map(int, stat[11:15])) / _TICKS
        total.tasks += int(stat[17])
        total.memory_bytes += int(stat[21]) * _PAGE
    total.pids = tuple(pids)
    return total


def can_watch() -> bool:
    """Whether this kernel tells a process's children; without that no limit of a whole sandbox could be watched."""
    return Path(f"/proc/self/task/{threading.get_native_id()}/children").exists()


def shared_once(usage: Usage) -> int:
    """Bytes of memory with shared pages divided among those who share them: slower, so only asked for when the first figure is too high."""
    total = 0
    for pid in usage.pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:
            return usage.memory_bytes
        total += next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    return total


def host_out_of_memory() -> int:
    """How often the kernel has killed a process because the host, or a control group on it, had no memory left."""
    for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return found
    for task in tasks:
        try:
            found.extend(map(int, Path(f"/proc/{pid}/task/{task}/children").read_bytes().split()))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
