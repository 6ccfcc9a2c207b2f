"""A folder that belongs to a running server: what a killed one has left is removed by the next."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path


class OwnedFolder:
    """Made at once, with a name of its own; `close` removes it."""

    def __init__(self, kind: str) -> None:
        prefix = f"rewardmesh-{kind}-"
        for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            _remove_ownerless(left)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove the folder. Safe to call twice."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def _remove_ownerless(folder: Path) -> None:
    """Remove a folder that nobody holds; the kernel has taken a killed server's lock away."""
    try:
        if folder.stat().st_uid != os.geteuid():
            return
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        # Another server removes it at this moment, or it is not ours to open.
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(lock)
