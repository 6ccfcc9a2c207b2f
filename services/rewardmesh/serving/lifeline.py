"""A process that dies with its parent: a killed parent (`kill -9`) cannot end its children, so on Linux the kernel does it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when the parent thread that started it ends (`PR_SET_PDEATHSIG`).

    Elsewhere than on Linux nothing happens, and children of a killed parent have to be stopped by hand.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # it died before the kernel was asked
        os._exit(1)
