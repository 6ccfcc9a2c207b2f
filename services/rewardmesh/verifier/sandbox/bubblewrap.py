"""Bubblewrap: a box made of the kernel's own namespaces, started in some ten milliseconds, by any user.

Inside there are the machine's read-only /usr, a writable /work of bounded size, four harmless devices and the agent; no /proc, no /etc, no
/home, no network, no environment, no capability, no way to a further user namespace, and the system calls of `seccomp` are denied.
When the server is root, bubblewrap itself runs as nobody, so that a program that got out would be nobody.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rewardmesh.verifier.sandbox import seccomp
from rewardmesh.verifier.sandbox.bundle import ROOT, Bundle
from rewardmesh.verifier.sandbox.limits import SandboxError
from rewardmesh.verifier.sandbox.runtime import ONE_ARENA, SHARED, USER, WORK, as_nobody, reachable

_CARRIED = "/mnt"
_DEVICES = ("null", "zero", "random", "urandom")


class Bubblewrap:
    """Starts agents under bwrap."""

    name = "bubblewrap"
    spare_tasks = 0

    def __init__(self, bundle: Bundle, binds: Sequence[Path], tools: Sequence[Path], disk_bytes: int) -> None:
        """`binds` and, for compilers only, `tools`: folders that are shown read-only; `disk_bytes`: size of the work folder."""
        program = shutil.which("bwrap")
        if program is None:
            raise SandboxError("bwrap is not installed: apt-get install bubblewrap")
        self._filter = seccomp.compiled()
        self._bundle = bundle
        self._command = [*as_nobody(), program, *_namespaces(), *_files(binds), *_work(disk_bytes)]
        self._carried, self._tools = _carried(program, tools)

    @property
    def filters(self) -> bool:
        """Whether system calls are filtered: libseccomp is installed."""
        return self._filter is not None

    def start(self, end: int, errors: int, *, compiler: bool = False) -> subprocess.Popen[bytes]:
        """See `Runtime`."""
        passed: list[int] = []
        arguments = [*self._carried, *self._command, *self._tools, "--proc", "/proc"] if compiler else list(self._command)
        try:
            for name, content in self._bundle.files.items():
                passed.append(_memory(content))
                arguments += ["--file", str(passed[-1]), f"{ROOT}/{name}"]
            if self._filter is not None:
                passed.append(_memory(self._filter))
                arguments += ["--seccomp", str(passed[-1])]
            arguments += ["--remount-ro", "/", "--", *self._bundle.command(ROOT, alone=True)]
            return subprocess.Popen(
                arguments, stdin=end, stdout=end, stderr=errors, pass_fds=passed, env={}, cwd="/", start_new_session=True
            )
        except OSError as error:
            raise SandboxError(f"bwrap cannot be started: {error}") from error
        finally:
            for number in passed:
                os.close(number)

    def ended(self, process: subprocess.Popen[bytes]) -> None:
        """Nothing is left: the kernel ends a process namespace with its first process."""

    def close(self) -> None:
        """Nothing is left."""


def _namespaces() -> list[str]:
    return [
        *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try", "--disable-userns"),
        *("--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL", "--hostname", "sandbox"),
        *("--uid", str(USER), "--gid", str(USER), "--setenv", "PATH", "/usr/bin:/bin"),
        *("--setenv", *ONE_ARENA),
    ]


def _files(binds: Sequence[Path]) -> list[str]:
    arguments = ["--ro-bind", "/usr", "/usr"]
    for path in map(Path, SHARED):
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    for path in binds:
        arguments += ["--ro-bind", str(path), str(path)]
    for device in _DEVICES:
        arguments += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    return arguments


def _carried(program: str, tools: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Words before and behind the command that show compilers' folders.

    What only root may read (a toolchain in its home) is first mounted, by root, where nobody can reach it, and nowhere else: in a mount
    namespace around the sandbox.
    """
    around = [program, "--die-with-parent", "--dev-bind", "/", "/", "--tmpfs", _CARRIED]
    shown: list[str] = []
    for number, path in enumerate(tools):
        source = path
        if not reachable(path):
            source = Path(_CARRIED) / str(number)
            around += ["--ro-bind", str(path), str(source)]
        shown += ["--ro-bind", str(source), str(path)]
    return ([*around, "--"] if "--ro-bind" in around else []), shown


def _work(disk_bytes: int) -> list[str]:
    return ["--size", str(disk_bytes), "--perms", "0700", "--tmpfs", WORK, "--symlink", WORK, "/tmp", "--chdir", WORK]


def _memory(content: bytes) -> int:
    number = os.memfd_create("sandbox", os.MFD_CLOEXEC)
    os.write(number, content)
    os.lseek(number, 0, os.SEEK_SET)
    return number
