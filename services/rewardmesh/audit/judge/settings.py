"""How a judge is audited: which answers of it, how many items a probe, which thresholds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rewardmesh.audit.errors import AuditError
from rewardmesh.client import Model


def words(text: str) -> int:
    """Length of an answer as whitespace-separated words."""
    return len(text.split())


@dataclass(frozen=True)
class JudgeSettings:
    """Settings of a judge audit. Sizes are chosen so that a small model on two cores takes less than two minutes.

    Attributes:
        model: the judge that is asked; None for the service's only one. A version in it is the one audited.
        template: name of the compare template; "" for the service's default.
        votes, temperature: as in use: 0 votes read label probabilities.
        seed: of sampled votes, of the choice of items and of bootstrap intervals.
        pairs: most pairs that position, length, self-preference and calibration look at.
        paraphrase_pairs, injection_pairs, repetition_pairs, groups: most items of the probes that ask about each several times.
        repeats: how often the repetition probe asks the same.
        with_references: whether the judge is shown the references of the data.
        own_name: the judge's own name among the models that wrote answers; "" leaves self-preference out.
        contrast_template: a template that asks for the worse answer; "" puts the opposite criterion into the context instead.
        paraphrases: (text, the same in other words), for whole prompts and whole answers.
        injections: texts to append, with what they are; None for the built-in corpus.
        length_of: length of an answer, in `length_unit`.
        probes: names of those to run; empty for all.
        thresholds: name of a figure -> threshold, instead of the default.
    """

    model: Model = None
    template: str = ""
    votes: int = 0
    temperature: float = 0.0
    seed: int = 0
    pairs: int = 200
    paraphrase_pairs: int = 30
    injection_pairs: int = 12
    repetition_pairs: int = 60
    groups: int = 40
    repeats: int = 3
    with_references: bool = False
    own_name: str = ""
    contrast_template: str = ""
    paraphrases: tuple[tuple[str, str], ...] = ()
    injections: tuple[tuple[str, str], ...] | None = None
    length_of: Callable[[str], int] = words
    length_unit: str = "word"
    probes: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("pairs", "paraphrase_pairs", "injection_pairs", "repetition_pairs", "groups"):
            if getattr(self, name) < 1:
                raise AuditError(f"{name}: must be at least 1, is {getattr(self, name)}")
        if self.repeats < 2:
            raise AuditError(f"repeats: must be at least 2 to compare anything, is {self.repeats}")
        if self.votes < 0 or self.temperature < 0:
            raise AuditError(f"votes and temperature: must be at least 0, are {self.votes} and {self.temperature:g}")

    def describe(self) -> dict[str, str]:
        """What differs from the defaults of the service, for the report."""
        shown: dict[str, object] = {
            "votes": self.votes or "0 (label probabilities)",
            "temperature": self.temperature,
            "seed": self.seed,
            "references shown": self.with_references,
            "own name": self.own_name or "-",
            "length": f"in {self.length_unit}s",
        }
        return {name: str(value) for name, value in shown.items()}
