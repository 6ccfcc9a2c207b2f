"""Judge templates: one YAML file each, found by name, with the text the model reads and the labels it answers with.

    name: compare-short                     # what callers ask for
    labels: {a: A, b: B, tie: C}            # what the model answers; tie is optional
    text: |                                 # jinja
      Question: {{ prompt }}
      First answer: {{ a }}
      Second answer: {{ b }}
      Which is better? Reply with A, B, or C for a tie.

A grade template (`kind: grade`) puts one {{ criterion.text }} at a time to the model, or, when its text mentions no criterion, asks
once for the whole {{ completion }}. Its labels are {"yes": ..., "no": ...} or a list of numbers (["1", "2", "3"]) with optional `min`
and `max`. It may bring `criteria` (id, text, weight) of its own.

Values are put in once, in a sandbox: an answer that holds template syntax stays text, and control tokens of the model's chat format
inside a value are broken up, so that an answer cannot end its own turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, UndefinedError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rewardmesh.serving import ConfigError
from rewardmesh.serving.config import describe_errors, read_yaml
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

Kind = Literal["compare", "grade"]
Value = str | Sequence[str] | Mapping[str, object] | Sequence[Mapping[str, object]]

_SHARED = frozenset({"prompt", "references", "principles", "notes", "criteria"})
VARIABLES: Mapping[Kind, frozenset[str]] = {"compare": _SHARED | {"a", "b"}, "grade": _SHARED | {"completion", "criterion"}}
"""What a text may mention. prompt, a, b, completion: str; references, principles, notes: lists of str; a criterion has id, text, weight."""
_REQUIRED: Mapping[Kind, frozenset[str]] = {"compare": frozenset({"a", "b"}), "grade": frozenset({"completion"})}

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)


@dataclass(frozen=True)
class Criterion:
    """One thing to grade by; weight > 0."""

    id: str
    text: str
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class JudgeTemplate:
    """One template, ready to render.

    Attributes:
        name: what callers ask for.
        kind: for Compare and Rank, or for Grade.
        source: file it came from, for messages.
        labels: the words the model answers with. compare: a, b and perhaps tie; grade: yes, no, or ascending scores.
        values: for grade the score of each label (yes 1, no 0); empty for compare.
        low, high: for grade the bounds of the score.
        yes_no: whether the labels are yes and no.
        criteria: of a rubric; may be empty.
        per_criterion: whether a grade is asked for each criterion; else once for the whole answer.
        fingerprint: hash (hex) of all that verdicts depend on.
    """

    name: str
    kind: Kind
    source: str
    labels: tuple[str, ...]
    values: tuple[float, ...]
    low: float
    high: float
    yes_no: bool
    criteria: tuple[Criterion, ...]
    per_criterion: bool
    fingerprint: str
    compiled: Template

    def render(self, values: Mapping[str, Value]) -> str | pb.Absence:
        """The text for one item; NOT_APPLICABLE when it lacks what the template asks for, such as a reference."""
        try:
            return self.compiled.render(values)
        except UndefinedError as error:
            return absence(pb.ABSENCE_REASON_NOT_APPLICABLE, f"template {self.name!r} needs what the item does not have: {error}")
        except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"template {self.name!r} cannot be rendered: {error}")


def judged_fingerprint(model: str, template: str) -> str:
    """Fingerprint (hex, 16 characters) of a model that reads a template."""
    return hashlib.sha256(f"{model}\0{template}".encode()).hexdigest()[:16]


def read_template(file: Path) -> JudgeTemplate:
    """Read and check one template file.

    Raises:
        ConfigError: what is wrong, with file and field.
    """
    document = read_yaml(file)
    try:
        parsed = _Document.model_validate(document)
    except ValidationError as error:
        raise ConfigError(describe_errors(error, str(file))) from error
    try:
        tree = _ENVIRONMENT.parse(parsed.text)
        compiled = _ENVIRONMENT.from_string(parsed.text)
    except TemplateSyntaxError as error:
        raise ConfigError(f"{file}: text: line {error.lineno}: {error.message}") from error
    used = meta.find_undeclared_variables(tree)
    known = VARIABLES[parsed.kind]
    if unknown := sorted(used - known):
        raise ConfigError(f"{file}: text: unknown variable {unknown[0]!r}; a {parsed.kind} template knows {', '.join(sorted(known))}")
    if missing := sorted(_REQUIRED[parsed.kind] - used):
        raise ConfigError(f"{file}: text: does not show {{{{ {missing[0]} }}}}, so the model could not judge it")
    template = parsed.build(str(file), compiled, "criterion" in used)
    if isinstance(trial := template.render(_TRIAL), pb.Absence):
        raise ConfigError(f"{file}: text: {trial.detail}")
    return template


def dialogue(prompt: Sequence[pb.Message]) -> str:
    """A dialogue as text: the content alone of a single message, else `role: content` paragraphs."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n\n".join(f"{m.name or pb.Role.Name(m.role).removeprefix('ROLE_').lower()}: {m.content}" for m in prompt)


_CRITERION = {"id": "trial", "text": "trial", "weight": 1.0}
_TRIAL: Mapping[str, Value] = {
    **{name: "trial" for name in ("prompt", "a", "b", "completion")},
    **{name: ["trial"] for name in ("references", "principles", "notes")},
    "criteria": [_CRITERION],
    "criterion": _CRITERION,
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _CriterionDocument(_Strict):
    id: str = Field(min_length=1)
    text: str = Field(min_length=1)
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)


class _Document(_Strict):
    name: str = Field(min_length=1)
    kind: Kind = "compare"
    text: str = Field(min_length=1)
    labels: dict[str, str] | list[str]
    min: float | None = Field(None, allow_inf_nan=False)
    max: float | None = Field(None, allow_inf_nan=False)
    criteria: list[_CriterionDocument] = Field(default_factory=list)

    @field_validator("labels", mode="before")
    @classmethod
    def _undo_yaml(cls, labels: Any) -> Any:
        """YAML reads a bare yes as a boolean and 1 as a number."""
        if isinstance(labels, dict):
            names = {True: "yes", False: "no"}
            labels = {names[key] if isinstance(key, bool) else key: value for key, value in labels.items()}
        for value in labels.values() if isinstance(labels, dict) else labels if isinstance(labels, list) else ():
            if isinstance(value, bool):
                raise ValueError('YAML reads a bare Yes or No as a boolean: put labels in quotes, "Yes"')
        if isinstance(labels, list):
            return [str(value) if isinstance(value, int) else value for value in labels]
        return labels

    @model_validator(mode="after")
    def _check(self) -> _Document:
        words = self.words
        if any(not word.strip() for word in words) or len(set(words)) != len(words):
            raise ValueError(f"labels: must be different words, are {', '.join(map(repr, words))}")
        if self.kind == "compare":
            if not isinstance(self.labels, dict) or not {"a", "b"} <= set(self.labels) <= {"a", "b", "tie"}:
                raise ValueError("labels: of a compare template are {a: ..., b: ...}, with tie: ... if it knows one")
            if self.criteria or self.min is not None or self.max is not None:
                raise ValueError("criteria, min and max: are for kind: grade")
        elif isinstance(self.labels, dict):
            if set(self.labels) != {"yes", "no"}:
                raise ValueError('labels: of a grade template are {"yes": ..., "no": ...} or a list of numbers')
            if self.min is not None or self.max is not None:
                raise ValueError("min and max: of yes/no labels are 0 and 1")
        else:
            self._check_scores(self.labels)
        ids = [criterion.id for criterion in self.criteria]
        if len(set(ids)) != len(ids):
            raise ValueError("criteria: ids must be unique")
        return self

    def _check_scores(self, labels: Sequence[str]) -> None:
        try:
            values = [float(label) for label in labels]
        except ValueError as error:
            raise ValueError(f"labels: as a list are the scores as numbers ({error})") from None
        low, high = self._bounds(values)
        if len(values) < 2 or values != sorted(values) or not low <= values[0] or not values[-1] <= high:
            raise ValueError(f"labels: must be at least two ascending numbers in [{low:g}, {high:g}]")

    @property
    def words(self) -> tuple[str, ...]:
        if isinstance(self.labels, list):
            return tuple(self.labels)
        return tuple(self.labels[key] for key in ("a", "b", "tie", "yes", "no") if key in self.labels)

    def _bounds(self, values: Sequence[float]) -> tuple[float, float]:
        return (
            (self.min if self.min is not None else min(values, default=0.0)),
            (self.max if self.max is not None else max(values, default=0.0)),
        )

    def build(self, source: str, compiled: Template, per_criterion: bool) -> JudgeTemplate:
        yes_no = self.kind == "grade" and isinstance(self.labels, dict)
        values = (1.0, 0.0) if yes_no else tuple(map(float, self.words)) if self.kind == "grade" else ()
        low, high = self._bounds(values)
        criteria = tuple(Criterion(c.id, c.text, c.weight) for c in self.criteria)
        # The name is left out: a renamed template gives the same verdicts.
        content = self.model_dump_json(exclude={"name"})
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        return JudgeTemplate(
            name=self.name,
            kind=self.kind,
            source=source,
            labels=self.words,
            values=values,
            low=low,
            high=high,
            yes_no=yes_no,
            criteria=criteria,
            per_criterion=per_criterion,
            fingerprint=digest,
            compiled=compiled,
        )
