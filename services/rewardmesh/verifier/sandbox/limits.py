"""What a program in a sandbox may use, and how it can end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

MIB = 2**20


class Ending(StrEnum):
    """Why a program ended. All but EXIT and LOST are limits."""

    EXIT = "exit"
    """By itself, well or badly."""
    CPU = "cpu"
    WALL = "wall"
    MEMORY = "memory"
    PROCESSES = "processes"
    OUTPUT = "output"
    FILE_SIZE = "file-size"
    LOST = "lost"
    """It ended the sandbox it ran in: it killed the agent, or wrote into its protocol."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one program, with all the processes it starts."""

    cpu_s: float = 10.0
    wall_s: float = 10.0
    memory_bytes: int = 512 * MIB
    """Of all processes together."""
    processes: int = 64
    """Processes and threads together."""
    file_bytes: int = 16 * MIB
    output_bytes: int = MIB
    """Of stdout and of stderr, each."""
    open_files: int = 64
    reserves_addresses: bool = False
    """Whether the program (node, rustc) reserves far more addresses than it uses, so that only resident memory can be limited."""

    def inside(self) -> dict[str, float | int]:
        """As the agent takes them. The kernel's limits lie a little above what the watch outside kills for, so that the two differ;
        every thread reserves addresses for a stack."""
        return {
            "cpu_s": self.cpu_s,
            "wall_s": self.wall_s,
            "address_bytes": 0 if self.reserves_addresses else self.memory_bytes + (256 + 8 * self.processes) * MIB,
            "file_bytes": self.file_bytes,
            "output_bytes": self.output_bytes,
            "open_files": self.open_files,
            "tasks": self.processes + 16,
        }


@dataclass(frozen=True, slots=True)
class Run:
    """How a program ended, as far as it can be believed: all but the limits that were watched from outside comes from inside."""

    ending: Ending
    status: int = 0
    """Exit status, negative for a signal."""
    stdout: bytes = b""
    stderr: bytes = b""
    report: dict[str, object] = field(default_factory=dict)
    """What Python code reports of itself."""
    report_bytes: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    overhead_s: float = 0.0
    """Seconds from the request to its answer in which the program did not run."""
    detail: str = ""


class SandboxError(Exception):
    """No sandbox could be started, or one broke for no fault of the program: infrastructure, never a verdict."""
