"""No sandbox at all: programs run as the server's user, with only the kernel's limits of each process. Only when asked for by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from rewardmesh.verifier.sandbox.bundle import Bundle
from rewardmesh.verifier.sandbox.folder import OwnedFolder
from rewardmesh.verifier.sandbox.limits import SandboxError
from rewardmesh.verifier.sandbox.runtime import ONE_ARENA, ends_with_server


class Unsandboxed:
    """Starts agents as plain processes."""

    name = "unsandboxed"
    spare_tasks = 0

    def __init__(self, bundle: Bundle) -> None:
        self._owned = OwnedFolder("unsandboxed")
        root = self._owned.path / "agent"
        for name, content in bundle.files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        # The server's end must not leave programs behind.
        self._command = [*ends_with_server(), *bundle.command(str(root), alone=False)]
        self._works: dict[int, Path] = {}

    def start(self, end: int, errors: int, *, compiler: bool = False) -> subprocess.Popen[bytes]:
        """See `Runtime`."""
        work = Path(tempfile.mkdtemp(prefix="work-", dir=self._owned.path))
        environment = dict([("PATH", os.defpath), ONE_ARENA])
        try:
            process = subprocess.Popen(
                self._command, stdin=end, stdout=end, stderr=errors, env=environment, cwd=work, start_new_session=True
            )
        except OSError as error:
            shutil.rmtree(work)
            raise SandboxError(f"the agent cannot be started: {error}") from error
        self._works[process.pid] = work
        return process

    def ended(self, process: subprocess.Popen[bytes]) -> None:
        """Remove the work folder."""
        shutil.rmtree(self._works.pop(process.pid), ignore_errors=True)

    def close(self) -> None:
        """Remove all folders."""
        self._owned.close()
