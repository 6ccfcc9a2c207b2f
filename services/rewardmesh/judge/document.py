"""The fields of a template file and their checks; what a file says, before any text of it is compiled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rewardmesh.judge.rendering import TRIAL, Kind, Marking
from rewardmesh.serving import ConfigError
from rewardmesh.serving.config import read_yaml

BUILT_IN = Path(str(resources.files(__package__))) / "templates"
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_MOST_EXTENSIONS = 8


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Labelled(_Strict):
    """What has labels: a template, or a criterion with a scale of its own."""

    labels: dict[str, str | float] | list[str] = Field(default_factory=list)
    min: float | None = Field(None, allow_inf_nan=False)
    max: float | None = Field(None, allow_inf_nan=False)

    @field_validator("labels", mode="before")
    @classmethod
    def _undo_yaml(cls, labels: Any) -> Any:
        """YAML reads a bare yes as a boolean and 1 as a number."""
        if isinstance(labels, dict):
            names = {True: "yes", False: "no"}
            labels = {names[key] if isinstance(key, bool) else str(key): value for key, value in labels.items()}
        for value in labels.values() if isinstance(labels, dict) else labels if isinstance(labels, list) else ():
            if isinstance(value, bool):
                raise ValueError('YAML reads a bare Yes or No as a boolean: put labels in quotes, "Yes"')
        if isinstance(labels, list):
            return [str(value) if isinstance(value, int) else value for value in labels]
        return labels

    @property
    def words(self) -> tuple[str, ...]:
        """The words, in the order of `Scale.words`."""
        if isinstance(self.labels, list):
            return tuple(self.labels)
        if self.likert:
            return tuple(sorted(self.labels, key=lambda word: self.likert[word]))
        return tuple(str(self.labels[key]) for key in ("a", "b", "tie", "yes", "no") if key in self.labels)

    @property
    def likert(self) -> dict[str, float]:
        """Value of each word where words stand for numbers, else empty."""
        if not isinstance(self.labels, dict) or not all(isinstance(value, float) for value in self.labels.values()):
            return {}
        return {word: float(value) for word, value in self.labels.items()}

    @property
    def values(self) -> tuple[float, ...]:
        """The score of each word; empty where words are no scores."""
        if isinstance(self.labels, dict):
            return tuple(sorted(self.likert.values())) if self.likert else (1.0, 0.0) if self.yes_no else ()
        return tuple(map(float, self.labels))

    @property
    def yes_no(self) -> bool:
        """Whether the labels are yes and no."""
        return isinstance(self.labels, dict) and set(self.labels) == {"yes", "no"} and not self.likert

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and greatest score."""
        values = self.values
        return (
            self.min if self.min is not None else min(values, default=0.0),
            self.max if self.max is not None else max(values, default=0.0),
        )

    def check_words(self) -> None:
        """Raise ValueError unless the words differ."""
        if any(not word.strip() for word in self.words) or len(set(self.words)) != len(self.words):
            raise ValueError(f"labels: must be different words, are {', '.join(map(repr, self.words))}")

    def check_scores(self) -> None:
        """Raise ValueError unless the labels are scores."""
        if self.yes_no:
            if self.min is not None or self.max is not None:
                raise ValueError("min and max: of yes/no labels are 0 and 1")
            return
        if isinstance(self.labels, dict) and not self.likert:
            raise ValueError(
                'labels: of a grade template are {"yes": ..., "no": ...}, words with their numbers {Good: 2, ...}, or a list of numbers'
            )
        try:
            values = self.values
        except ValueError as error:
            raise ValueError(f"labels: as a list are the scores as numbers ({error})") from None
        low, high = self.bounds
        if len(values) < 2 or list(values) != sorted(set(values)) or not low <= values[0] or not values[-1] <= high:
            raise ValueError(f"labels: must be at least two different numbers in [{low:g}, {high:g}], in a list ascending")


class CriterionDocument(_Labelled):
    """One of `criteria`."""

    id: str = Field(min_length=1)
    text: str = Field(min_length=1)
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    levels: dict[str, str] = Field(default_factory=dict)

    @field_validator("levels", mode="before")
    @classmethod
    def _words(cls, levels: Any) -> Any:
        return {str(label): text for label, text in levels.items()} if isinstance(levels, dict) else levels

    @model_validator(mode="after")
    def _check(self) -> CriterionDocument:
        if self.labels:
            self.check_words()
            self.check_scores()
        elif self.min is not None or self.max is not None:
            raise ValueError("min and max: go with labels")
        return self


class HopDocument(_Strict):
    """One of `hops`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    text: str = Field(min_length=1)
    max_tokens: int = Field(512, ge=1, le=32768)
    temperature: float | None = Field(None, ge=0, allow_inf_nan=False)
    choices: list[str] = Field(default_factory=list)
    json_schema: dict[str, Any] | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _check(self) -> HopDocument:
        if self.name in {*TRIAL, "marking"}:
            raise ValueError(f"name: {self.name!r} is a variable of the item")
        if self.choices and self.json_schema is not None:
            raise ValueError("choices and schema: only one can say what may be written")
        if len(set(self.choices)) != len(self.choices) or not all(self.choices):
            raise ValueError("choices: must be different texts")
        return self

    @property
    def canonical_schema(self) -> str:
        """The schema as `JsonGrammar` takes it."""
        # In the order of the file: what is written first must not depend on the alphabet.
        return json.dumps(self.json_schema)


class TemplateDocument(_Labelled):
    """A template file."""

    name: str = Field(min_length=1)
    kind: Kind = "compare"
    head: str = ""
    text: str = Field(min_length=1)
    hops: list[HopDocument] = Field(default_factory=list)
    marking: Marking = "none"
    verdict: Literal["labels", "written"] = "labels"
    strength: bool = False
    max_tokens: int = Field(1024, ge=1, le=32768)
    revision: str = ""
    format: Literal["json", "lines"] = "json"
    criteria: list[CriterionDocument] = Field(default_factory=list)
    per_principle: bool = False
    constitution: str = ""
    needs: list[Literal["references", "notes"]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check(self) -> TemplateDocument:
        self.check_words()
        if self.kind == "grade":
            self.check_scores()
        elif self.criteria or self.min is not None or self.max is not None or self.per_principle:
            raise ValueError("criteria, min, max and per_principle: are for kind: grade")
        elif self.kind == "compare":
            if not isinstance(self.labels, dict) or self.likert or not {"a", "b"} <= set(self.labels) <= {"a", "b", "tie"}:
                raise ValueError("labels: of a compare template are {a: ..., b: ...}, with tie: ... if it knows one")
        elif self.kind == "rank":
            if not isinstance(self.labels, list) or len(self.labels) < 2:
                raise ValueError(f"labels: of a rank template are a list, one for each answer it can show, such as [{', '.join(LETTERS)}]")
        elif self.labels or self.verdict == "written":
            raise ValueError("labels and verdict: a critique has none, it is written")
        if (self.revision or self.format != "json") and self.kind != "critique":
            raise ValueError("revision and format: are for kind: critique")
        if self.revision and any(hop.name == "critique" for hop in self.hops):
            raise ValueError("hops: 'critique' is what the revision knows the critique by; name the hop otherwise")
        if self.strength and (self.kind != "compare" or self.verdict != "written"):
            raise ValueError("strength: is for kind: compare with verdict: written")
        for field, names in (("criteria: ids", [c.id for c in self.criteria]), ("hops: names", [hop.name for hop in self.hops])):
            if len(set(names)) != len(names):
                raise ValueError(f"{field} must be unique")
        for criterion in self.criteria:
            words = criterion.words if criterion.labels else self.words
            if unknown := sorted(set(criterion.levels) - set(words)):
                raise ValueError(f"criteria: {criterion.id}: levels: {unknown[0]!r} is none of the labels {', '.join(words)}")
        return self


def canonical(document: TemplateDocument) -> str:
    """All that verdicts depend on, as one text."""
    return document.model_dump_json(exclude={"name"}, by_alias=True)


def merged(file: Path) -> dict[str, Any]:
    """The fields of a file over those of the files that it extends.

    Raises:
        ConfigError: a file that cannot be read, a template that is not there, a circle.
    """
    document = read_yaml(file)
    chain = [file]
    while extended := document.pop("extends", None):
        if not isinstance(extended, str) or not extended:
            raise ConfigError(f"{file}: extends: must be the name of a template")
        base = _find(extended, chain)
        if base in chain or len(chain) > _MOST_EXTENSIONS:
            raise ConfigError(f"{file}: extends: {' extends '.join(each.stem for each in [*chain, base])}: a circle")
        chain.append(base)
        document = _over(document, read_yaml(base))
    return document


def _find(name: str, chain: Iterable[Path]) -> Path:
    *_, last = chain
    for directory in (last.parent, BUILT_IN):
        candidate = directory / f"{name}.yaml"
        # A file that replaces a built-in one may extend it.
        if candidate.is_file() and candidate != last:
            return candidate
    known = sorted(each.stem for directory in {last.parent, BUILT_IN} for each in directory.glob("*.yaml"))
    raise ConfigError(f"{last}: extends: there is no {name}.yaml beside it and no such built-in template; known: {', '.join(known)}")


def _over(own: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    # A name is nobody else's.
    return {field: value for field, value in base.items() if field != "name"} | dict(own)
