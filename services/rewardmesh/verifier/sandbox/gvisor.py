"""gVisor: a kernel of its own, in user space, between programs and the machine's. Stronger than namespaces, and slower to start.

Every sandbox is a container of `runsc run` over a bundle: a read-only root with the machine's /usr, a writable /work of bounded size and
the agent. gVisor adds a /proc and a /dev of its own making. A server that is not root runs it rootless.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewardmesh.verifier.sandbox.bundle import ROOT, Bundle
from rewardmesh.verifier.sandbox.folder import OwnedFolder
from rewardmesh.verifier.sandbox.limits import SandboxError
from rewardmesh.verifier.sandbox.runtime import ONE_ARENA, SHARED, USER, WORK, ends_with_server

PLATFORMS = ("systrap", "ptrace")
"""Ways of gVisor to catch system calls, the faster first; older releases have only the second."""
TRIAL_TIMEOUT_S = 20.0
_LITTLE = 2**20
"""Size of folders that gVisor would otherwise make itself, without a limit."""


class GVisor:
    """Starts agents under runsc."""

    name = "gvisor"
    spare_tasks = 48

    def __init__(self, bundle: Bundle, binds: Sequence[Path], tools: Sequence[Path], disk_bytes: int) -> None:
        """See `Bubblewrap`. Raises SandboxError where runsc is missing or does not work."""
        program = shutil.which("runsc")
        if program is None:
            raise SandboxError("runsc is not installed: apt-get install runsc")
        self._owned = OwnedFolder("gvisor")
        self._folder = self._owned.path
        self._numbers = itertools.count()
        self._names: dict[int, str] = {}
        for kind, shown in (("program", binds), ("compiler", [*binds, *tools])):
            root = self._folder / kind / "root"
            for name, content in bundle.files.items():
                path = root / ROOT.strip("/") / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            config = _configuration(bundle, root, shown, disk_bytes)
            (self._folder / kind / "config.json").write_text(json.dumps(config), encoding="utf-8")
        self._state = self._folder / "state"
        common = [program, "--network=none", "--ignore-cgroups", f"--root={self._state}"]
        self._common = [*common, *([] if os.geteuid() == 0 else ["--rootless"])]
        self._platform = self._fastest()

    def start(self, end: int, errors: int, *, compiler: bool = False) -> subprocess.Popen[bytes]:
        """See `Runtime`."""
        name = f"box-{os.getpid()}-{next(self._numbers)}"
        command = [
            *ends_with_server(),
            *self._common,
            f"--platform={self._platform}",
            "run",
            f"--bundle={self._folder / ('compiler' if compiler else 'program')}",
            name,
        ]
        try:
            process = subprocess.Popen(command, stdin=end, stdout=end, stderr=errors, cwd="/", start_new_session=True)
        except OSError as error:
            raise SandboxError(f"runsc cannot be started: {error}") from error
        self._names[process.pid] = name
        return process

    def ended(self, process: subprocess.Popen[bytes]) -> None:
        """Remove the container's state."""
        name = self._names.pop(process.pid)
        for path in self._state.glob(f"*{name}*"):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove all folders."""
        self._owned.close()

    def _fastest(self) -> str:
        """The first platform under which a container runs."""
        words = ""
        for platform in PLATFORMS:
            command = [*self._common, f"--platform={platform}", "do", "/bin/true"]
            try:
                done = subprocess.run(command, capture_output=True, timeout=TRIAL_TIMEOUT_S, check=False, cwd="/")
            except (OSError, subprocess.TimeoutExpired) as error:
                words = str(error)
                continue
            if done.returncode == 0:
                return platform
            words = done.stderr.decode("utf-8", "replace").strip()[-500:]
        self.close()
        raise SandboxError(f"runsc cannot run a container: {words}")


def _configuration(bundle: Bundle, root: Path, binds: Sequence[Path], disk_bytes: int) -> dict[str, Any]:
    """The container as OCI's runtime specification describes one; the folders that are mounted over are made in `root`."""
    shown = [Path("/usr"), *binds]
    for path in map(Path, SHARED):
        if path.is_symlink():
            (root / path.name).symlink_to(path.readlink())
        elif path.is_dir():
            shown.append(path)
    mounts: list[dict[str, Any]] = [
        {"destination": str(path), "type": "bind", "source": str(path), "options": ["ro", "rbind", "nosuid", "nodev"]} for path in shown
    ]
    for folder, size in ((WORK, disk_bytes), ("/tmp", _LITTLE), ("/dev/shm", _LITTLE)):
        options = [f"size={size}", "mode=0777", "nosuid", "nodev"]
        mounts.append({"destination": folder, "type": "tmpfs", "source": "tmpfs", "options": options})
    for folder in (*map(str, shown), WORK, "/tmp"):
        (root / folder.strip("/")).mkdir(parents=True, exist_ok=True)
    nothing: dict[str, list[str]] = {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")}
    return {
        "ociVersion": "1.0.0",
        "process": {
            "terminal": False,
            "user": {"uid": USER, "gid": USER},
            "args": bundle.command(ROOT, alone=True),
            "env": ["PATH=/usr/bin:/bin", "=".join(ONE_ARENA)],
            "cwd": WORK,
            "capabilities": nothing,
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": True},
        "hostname": "sandbox",
        "mounts": mounts,
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
    }
