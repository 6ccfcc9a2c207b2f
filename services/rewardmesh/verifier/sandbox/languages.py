"""The languages that programs can be written in, as far as this machine has them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from rewardmesh.verifier.sandbox.runtime import ONE_ARENA

_SHOWN = (Path("/usr"), Path("/bin"), Path("/lib"))
"""Where a program may lie to be seen inside without a bind of its own."""
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": ".", "TMPDIR": ".", "LANG": "C.UTF-8"} | dict([ONE_ARENA])


@dataclass(frozen=True)
class Language:
    """How a program of one language is run."""

    name: str
    fences: tuple[str, ...]
    """Words after ``` that announce it, in lower case."""
    source: str
    """Name of the file that holds the program."""
    run: tuple[str, ...]
    compile: tuple[str, ...] = ()
    """Command that makes `./program` of the source; empty when there is nothing to compile."""
    binds: tuple[Path, ...] = ()
    environment: dict[str, str] = field(default_factory=lambda: _ENVIRONMENT)
    compiler_box: bool = False
    """Whether its compiler needs a sandbox of its own kind: see `Runtime.start`."""
    reserves_addresses: bool = False
    """See `Limits`; of the program when it is interpreted, of the compiler otherwise."""


@dataclass(frozen=True)
class Missing:
    """A language that cannot be run here, and what to do about it."""

    name: str
    remedy: str


@cache
def find_languages() -> Mapping[str, Language | Missing]:
    """All languages but Python, which every sandbox has, by name."""
    shell = Language("shell", ("sh", "shell", "bash"), "main.sh", (_shell(), "main.sh"))
    return {
        "python": Language("python", ("python", "python3", "py"), "solution.py", ()),
        "javascript": _node(),
        "cpp": _cpp(),
        "rust": _rust(),
        "shell": shell,
    }


def _shell() -> str:
    return next((path for path in ("/usr/bin/bash", "/bin/bash") if Path(path).exists()), "/bin/sh")


def _node() -> Language | Missing:
    program = _visible("node", "nodejs")
    if program is None:
        return Missing("javascript", "apt-get install nodejs")
    run = (program, "--max-old-space-size=256", "--stack-trace-limit=50", "main.js")
    return Language("javascript", ("javascript", "js", "node"), "main.js", run, reserves_addresses=True)


def _cpp() -> Language | Missing:
    program = _visible("g++", "clang++")
    if program is None:
        return Missing("cpp", "apt-get install g++")
    compile_it = (program, "-std=c++17", "-O1", "-pipe", "-fdiagnostics-color=never", "-o", "program", "main.cpp")
    return Language("cpp", ("cpp", "c++", "cc", "cxx"), "main.cpp", ("./program",), compile_it)


def _rust() -> Language | Missing:
    """rustc itself, not rustup's stand-in, which needs a home folder."""
    found = shutil.which("rustc") or _visible("rustc")
    if found is None:
        return Missing("rust", "apt-get install rustc")
    try:
        done = subprocess.run([found, "--print", "sysroot"], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        return Missing("rust", f"{found} does not run: {error}")
    root = Path(done.stdout.strip())
    program = root / "bin" / "rustc"
    linker = _visible("cc", "gcc", "clang")
    if linker is None:
        return Missing("rust", "apt-get install gcc: rustc links with it")
    if not os.access(program, os.R_OK | os.X_OK):
        return Missing("rust", f"{program} cannot be run by this user: apt-get install rustc")
    compile_it = (str(program), "-O", "--edition=2021", "--error-format=short", "-C", "strip=symbols", "-C", f"linker={_real(linker)}")
    binds = () if _is_shown(root) else (root,)
    command = (*compile_it, "-o", "program", "main.rs")
    return Language("rust", ("rust", "rs"), "main.rs", ("./program",), command, binds, compiler_box=True, reserves_addresses=True)


def _visible(*names: str) -> str | None:
    """Path of the first of these programs that lies where every sandbox can see it."""
    for name in names:
        path = shutil.which(name, path="/usr/bin:/usr/local/bin:/bin")
        if path is not None:
            return _real(path)
    return None


def _real(path: str) -> str:
    # /etc/alternatives is not there inside.
    return str(Path(path).resolve())


def _is_shown(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in _SHOWN)


def binds_of(languages: Sequence[Language | Missing]) -> list[Path]:
    """Folders that their compilers need, all together."""
    return sorted({path for language in languages if isinstance(language, Language) for path in language.binds})
