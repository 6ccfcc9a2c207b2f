"""The runtimes that tests of sandboxes run under, each skipped where it is missing unless REWARDMESH_REQUIRE_SANDBOXES=1."""

import os
import shutil
from pathlib import Path

import pytest

PROGRAMS = {"bubblewrap": "bwrap", "gvisor": "runsc"}
RUNTIMES = tuple(PROGRAMS)


def require(runtime: str) -> None:
    """Skip the test where the runtime is missing; fail it where sandboxes are required."""
    if shutil.which(PROGRAMS[runtime]):
        return
    if os.environ.get("REWARDMESH_REQUIRE_SANDBOXES") == "1":
        pytest.fail(f"{PROGRAMS[runtime]} is not installed")
    pytest.skip(f"{PROGRAMS[runtime]} is not installed")


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False
