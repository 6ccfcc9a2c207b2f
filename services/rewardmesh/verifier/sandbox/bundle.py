"""The agent as files for a sandbox: compiled once, by the interpreter that will run it, because every start would compile it again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rewardmesh.verifier.sandbox import inside
from rewardmesh.verifier.sandbox.limits import SandboxError

ROOT = "/agent"
"""Where the files lie inside."""
ISOLATED = ("-I", "-S", "-B", "-P")
"""Neither environment, nor site packages, nor written bytecode, nor the script's folder."""

_COMPILE = """
import importlib.util, json, marshal, sys
sources = json.load(sys.stdin)
head = importlib.util.MAGIC_NUMBER + bytes(12)
codes = {name: compile(source, name, "exec", dont_inherit=True, optimize=2) for name, source in sources.items()}
files = {name: (head + marshal.dumps(code)).hex() for name, code in codes.items()}
json.dump({"version": sys.version_info[:2], "files": files}, sys.stdout)
"""
_OLDEST = (3, 11)


@dataclass(frozen=True)
class Bundle:
    """What starts the agent."""

    python: Path
    files: Mapping[str, bytes]
    """By path below ROOT."""

    def command(self, root: str, *, alone: bool) -> list[str]:
        """The agent's command line, with the files in `root`."""
        start = f"import sys; sys.path.insert(0, {root!r}); from {inside.__name__}.agent import main; main({alone})"
        return [str(self.python), *ISOLATED, "-c", start]


def bundle(python: Path) -> Bundle:
    """Compile the agent for an interpreter; raises SandboxError when that cannot run it."""
    folder = inside.__name__.replace(".", "/")
    sources = {f"{folder}/{path.stem}.pyc": path.read_text(encoding="utf-8") for path in Path(*inside.__path__).glob("*.py")}
    try:
        done = subprocess.run(
            [python, *ISOLATED, "-c", _COMPILE], input=json.dumps(sources).encode(), capture_output=True, check=True, timeout=60
        )
        answer = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise SandboxError(f"{python} cannot run the sandbox's agent (needs Python 3.11 or newer): {error}") from error
    if tuple(answer["version"]) < _OLDEST:
        raise SandboxError(f"{python} is Python {answer['version']}; the sandbox's agent needs 3.11 or newer")
    return Bundle(python, {name: bytes.fromhex(text) for name, text in answer["files"].items()})
