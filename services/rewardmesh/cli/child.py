"""`python -m rewardmesh.cli.child PARENT_PID ARGUMENT...`: the `rewardmesh` command in a process that dies with its supervisor.

A killed supervisor (`kill -9`) cannot stop its services; on Linux the kernel kills them for it (`PR_SET_PDEATHSIG`). Elsewhere they
would have to be stopped by hand.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from rewardmesh.cli import main

_PR_SET_PDEATHSIG = 1


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # it died before the kernel was asked
        os._exit(1)


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    sys.argv[1:] = sys.argv[2:]
    main()
