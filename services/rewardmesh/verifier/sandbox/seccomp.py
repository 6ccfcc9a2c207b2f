"""The system calls that programs in a sandbox cannot make, as a filter that the kernel runs.

Everything else is allowed: interpreters and compilers use hundreds. What is denied here has had most of the holes through which programs
left their containers, or takes memory that no limit counts. A denied call fails with EPERM (ENOSYS for clone3, whose flags lie in memory
that a filter cannot read: the C library then falls back to clone).
"""

from __future__ import annotations

import errno
import os

DENIED: dict[str, tuple[str, ...]] = {
    "other processes": ("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp"),
    "mounts": (
        *("mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick"),
        *("mount_setattr", "name_to_handle_at", "open_by_handle_at", "swapon", "swapoff", "quotactl", "quotactl_fd"),
    ),
    "namespaces": ("unshare", "setns", "sethostname", "setdomainname"),
    "kernel code and tracing": (
        *("bpf", "perf_event_open", "userfaultfd", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module"),
        *("lookup_dcookie", "fanotify_init", "syslog", "acct", "reboot"),
    ),
    "rings: a second way to make every call": ("io_uring_setup", "io_uring_enter", "io_uring_register"),
    "keys: no namespace holds them": ("add_key", "request_key", "keyctl"),
    "hardware": ("ioperm", "iopl", "modify_ldt", "personality"),
    "clocks": ("settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "stime"),
    "memory that no limit counts": (
        *("memfd_create", "memfd_secret", "shmget", "shmat", "shmctl", "msgget", "msgsnd", "semget", "mq_open", "vmsplice"),
        *("mbind", "set_mempolicy", "migrate_pages", "move_pages", "mlock", "mlock2", "mlockall"),
    ),
}
_NEW_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x00000080)
"""Flags of clone: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWTIME."""
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10


def compiled() -> bytes | None:
    """The filter as the kernel takes it; None where libseccomp is not installed."""
    try:
        import pyseccomp as seccomp  # type: ignore[import-untyped]
    except (ImportError, OSError, RuntimeError):
        return None
    made = seccomp.SyscallFilter(seccomp.ALLOW)
    denied = seccomp.ERRNO(errno.EPERM)
    for calls in DENIED.values():
        for call in calls:
            # Architectures differ in their calls; one that does not exist cannot be made.
            if seccomp.resolve_syscall(seccomp.Arch.NATIVE, call) >= 0:
                made.add_rule(denied, call)
    made.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    for flag in _NEW_NAMESPACES:
        made.add_rule(denied, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    # VSOCK, for one, reaches the host of a virtual machine from every network namespace.
    made.add_rule(denied, "socket", seccomp.Arg(0, seccomp.GT, _AF_INET6))
    for family in range(_AF_INET + 1, _AF_INET6):
        made.add_rule(denied, "socket", seccomp.Arg(0, seccomp.EQ, family))
    source, sink = os.pipe()
    with open(source, "rb") as read, open(sink, "wb") as write:
        made.export_bpf(write)
        write.close()
        return read.read()
