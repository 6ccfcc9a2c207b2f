"""What is compared: a server that is started, asked for the scores of items, and stopped."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Ids = list[int]

IN_FLIGHT = 256
"""Items that a contender has before it at any time, in requests of the size that suits it."""


@dataclass(frozen=True)
class Item:
    """One answer to score.

    prompt, completion: the texts, from which `ids` are made by the model's own chat template.
    group: number of the question; items of a group are neighbours.
    """

    group: int
    prompt: str
    completion: str
    ids: Ids = field(repr=False)


@dataclass(frozen=True)
class Setup:
    """What every contender gets.

    model: directory of the model; threads: number of CPU threads that all its processes may compute with.
    folder: for logs and whatever it has to write; dtype, device: of the model.
    """

    model: Path
    threads: int
    folder: Path
    dtype: str = "float32"
    device: str = "cpu"


class ContenderError(Exception):
    """A contender that could not be started or did not answer as it must; the message says why."""


class MissingEnvironmentError(ContenderError):
    """Its virtual environment is not there."""


class Contender(ABC):
    """A way to score items. It is used as: `start`, `score` any number of times, `stop`.

    name: key in the results; title: how the report calls it.
    variants: settings to choose from in a calibration; the first is used without one. They are passed to `start`.
    calibrated_as: name of the contender whose calibration counts for this one too; empty for its own.
    """

    name: str
    title: str
    variants: Sequence[Mapping[str, str]] = ({},)
    calibrated_as: str = ""

    def available(self) -> None:  # noqa: B027 - most need nothing
        """Raise MissingEnvironmentError when what it needs is not installed."""

    @abstractmethod
    def start(self, setup: Setup, variant: Mapping[str, str]) -> None:
        """Start it and wait until it answers; ContenderError when it does not."""

    @abstractmethod
    def score(self, items: Sequence[Item]) -> list[float]:
        """Raw outputs of the classification head, one an item, in order; ContenderError when any is missing."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it with everything it started; harmless when it was not started."""


_OF_THE_CALLER = ("OMP_", "MKL_", "KMP_", "GOMP_", "PYTHONPATH", "LD_PRELOAD")


def reason(error: Exception) -> str:
    """Why a contender failed, in words for the report."""
    return str(error) if isinstance(error, ContenderError) else f"{type(error).__name__}: {error}"


def environment_with(added: Mapping[str, str]) -> dict[str, str]:
    """This process's environment and `added`, without what the caller's shell says about threads and modules."""
    return {**{key: value for key, value in os.environ.items() if not key.startswith(_OF_THE_CALLER)}, **added}


def thread_environment(threads: int, variant: Mapping[str, str]) -> dict[str, str]:
    """The environment that limits a process to so many threads; upper-case keys of a variant are passed on as they are."""
    chosen = {key: value for key, value in variant.items() if key.isupper()}
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", **chosen}


def interpreter(environment: str) -> str:
    """Python of a virtual environment in the repository's root.

    Raises:
        MissingEnvironmentError: it is not installed.
    """
    python = Path(__file__).parents[2] / environment / "bin" / "python"
    if not os.access(python, os.X_OK):
        raise MissingEnvironmentError(f"{environment} is not installed: run `make peers`")
    return str(python)
