"""The programs of a gateway, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from rewardmesh.gateway.program import Program, ProgramError, parse_program
from rewardmesh.serving.config import ConfigError
from rewardmesh.serving.errors import failed_precondition, invalid_argument, not_found


class Catalogue:
    """All programs, checked; names are unique."""

    def __init__(self, programs: Mapping[str, Program]) -> None:
        self.programs = dict(sorted(programs.items()))

    def get(self, name: str, fingerprint: str = "") -> Program:
        """The program of a name (empty: the only one).

        Raises:
            CallError: NOT_FOUND, INVALID_ARGUMENT (no name and several programs), FAILED_PRECONDITION (another fingerprint is expected).
        """
        if not name:
            if len(self.programs) > 1:
                raise invalid_argument("options.program", f"must name one of {', '.join(self.programs)}")
            name = next(iter(self.programs))
        if name not in self.programs:
            raise not_found("program", name, self.programs)
        program = self.programs[name]
        if fingerprint and fingerprint != program.fingerprint:
            raise failed_precondition(f"program {name!r} has fingerprint {program.fingerprint} here, the call expects {fingerprint}")
        return program


def load_catalogue(paths: Iterable[Path], baselines: Mapping[str, float]) -> Catalogue:
    """Read program files and folders of *.yaml.

    Args:
        baselines: stored baselines by "program/signal".

    Raises:
        ConfigError: an unreadable file, a folder without programs, a mistake in a program, a name given twice.
    """
    programs: dict[str, Program] = {}
    places: dict[str, Path] = {}
    for path in _files(paths):
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ProgramError(f"{path}: is not UTF-8 (byte {error.start})") from error
        program = parse_program(text, str(path), baselines)
        if program.name in programs:
            raise ProgramError(f"{path}: name: {program.name!r} is already the name of {places[program.name]}")
        programs[program.name], places[program.name] = program, path
    known = {f"{program.name}/{signal}" for program in programs.values() for signal in program.signals}
    for key in baselines:
        if key not in known:
            raise ConfigError(f"baselines.{key}: there is no such program/signal (known: {', '.join(sorted(known))})")
    return Catalogue(programs)


def _files(paths: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        if not found:
            raise ConfigError(f"{path}: holds no *.yaml")
        files += found
    return files
