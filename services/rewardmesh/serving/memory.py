"""How much memory there is, and what glibc does with what a server frees.

By default it gives large blocks back to the system at once, and worker threads get heaps of their own that it trims. An engine frees and
takes the same megabytes many times a second: every time, the system clears the pages anew. That was a tenth of the time of a forward pass.
"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_LARGEST = 32 * 2**20
"""glibc takes no greater threshold: larger blocks always come from the system."""


def keep_freed_memory() -> bool:
    """Keep freed memory in this process, in one heap for all threads; False where the C library is not glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    wanted = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2 * _LARGEST))
    return all([set_option(option, value) for option, value in wanted])


def available_bytes() -> int:
    """Memory that can still be taken: of the machine, or of the control group when that is less; a huge number where nobody tells."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int((group / "memory.current").read_text()))
    except OSError:  # no Linux, or control groups of the first version
        pass
    return min(found, default=2**62)
