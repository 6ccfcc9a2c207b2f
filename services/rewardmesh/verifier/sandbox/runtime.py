"""What a sandbox runtime is: something that starts the agent in a box of its own, with one socket to talk to it."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from subprocess import Popen
from typing import Protocol

USER = 65534
"""User and group that programs have inside, and outside too when the server is root: "nobody"."""
WORK = "/work"
"""The only folder inside that can be written."""
ONE_ARENA = ("MALLOC_ARENA_MAX", "1")
"""Without it every thread reserves 64 MiB of addresses, of which a program has a limit."""
SHARED = ("/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin")
"""Folders that are shown beside /usr, mostly as links into it."""


class Runtime(Protocol):
    """One way to isolate."""

    name: str
    spare_tasks: int
    """Threads that the runtime itself may come to need beyond those it has when idle."""

    def start(self, end: int, errors: int, *, compiler: bool = False) -> Popen[bytes]:
        """Start the agent with descriptor `end` as stdin and stdout. What cannot be started says why on `errors`. Raises SandboxError.

        `compiler`: whether a compiler runs there, which needs its own folders and a /proc (of the sandbox's own processes).
        """
        ...

    def ended(self, process: Popen[bytes]) -> None:
        """The process has been killed and reaped: remove what is left of it."""
        ...

    def close(self) -> None:
        """Remove what is left of all."""
        ...


def as_nobody() -> list[str]:
    """The words before a command that give root's rights away; none when the server is not root."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    return [setpriv or "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--"]


def ends_with_server() -> list[str]:
    """The words before a command that have the kernel kill it when the server's thread that started it is gone."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def reachable(path: Path) -> bool:
    """Whether the user that starts sandboxes can get at a file or folder: as root that is nobody, whom root's home is closed to."""
    if os.geteuid() != 0:
        return os.access(path, os.R_OK | os.X_OK)
    real = path.resolve()
    return real.exists() and all(one.stat().st_mode & stat.S_IXOTH for one in (real, *real.parents))
