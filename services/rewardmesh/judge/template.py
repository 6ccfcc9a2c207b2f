"""Judge templates: one YAML file each, found by name, with the texts the model reads and the labels it answers with.

    name: compare-short                     # what callers ask for
    labels: {a: A, b: B, tie: C}            # what the model answers; tie is optional
    text: |                                 # jinja
      Question: {{ prompt }}
      First answer: {{ a }}
      Second answer: {{ b }}
      Which is better? Reply with A, B, or C for a tie.

`hops` are texts that the model answers in words before it gives its verdict: reasons, a debate, consequences. What it writes is a variable
of the hops behind and of the text. See docs/judge-templates.md for all fields, `document` for their checks, `rendering` for how values
are kept from being read as instructions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rewardmesh.engine.writing import ChoiceGrammar, Grammar, JsonGrammar
from rewardmesh.judge.document import CriterionDocument, HopDocument, TemplateDocument, canonical, merged
from rewardmesh.judge.rendering import MARKING_NOTES, REQUIRED, TRIAL, VARIABLES, Kind, Marking, Text, TextError, Value, fences
from rewardmesh.serving import ConfigError
from rewardmesh.serving.config import describe_errors
from rewardmesh.v1 import common_pb2 as pb


@dataclass(frozen=True)
class Scale:
    """The labels of a verdict.

    Attributes:
        words: what the model answers. compare: a, b and perhaps tie; rank: one an answer; yes/no: yes, no; else by ascending value.
        values: the score of each word (yes 1, no 0); empty for compare and rank.
        low, high: bounds of the score.
        yes_no: whether the words are yes and no.
    """

    words: tuple[str, ...]
    values: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 0.0
    yes_no: bool = False


@dataclass(frozen=True)
class Criterion:
    """One thing to grade by.

    Attributes:
        weight: > 0.
        levels: what a label of the scale means for this criterion.
        scale: its own labels; None for the template's.
    """

    id: str
    text: str
    weight: float = 1.0
    levels: tuple[tuple[str, str], ...] = ()
    scale: Scale | None = None

    def values(self) -> dict[str, object]:
        """As a text mentions it."""
        levels = [{"label": label, "text": text} for label, text in self.levels]
        return {"id": self.id, "text": self.text, "weight": self.weight, "levels": levels}


@dataclass(frozen=True)
class Hop:
    """A text that the model answers in words.

    Attributes:
        name: of the variable that holds what it wrote.
        temperature: of sampling; None: 0, or that of the votes.
    """

    name: str
    text: Text
    max_tokens: int
    temperature: float | None
    grammar: Grammar | None


@dataclass(frozen=True, eq=False)
class JudgeTemplate:
    """One template, ready to render.

    Attributes:
        name: what callers ask for.
        source: file it came from, for messages.
        scale: labels of the verdict; no words for a critique.
        criteria: of a rubric; may be empty.
        per_criterion: whether a grade is asked for each criterion; else once for the whole answer.
        per_principle: whether the principles are what is graded by.
        constitution: name of the principles that go with it, "" for none.
        principles: those of its constitution.
        needs: variables of which an item must have one; others are NOT_APPLICABLE.
        hops: answered in words before the verdict, in order.
        written: whether the verdict is written and read from the text, not from label probabilities.
        strength: whether a written verdict states how strong the preference is.
        max_tokens: most tokens of a critique or of a written verdict.
        revision: what a critique's second text asks for; None when it has none.
        lines: whether a critique is written in lines, not as JSON.
        marking: see `rendering`; what is quoted from a text may hold its marks.
        fingerprint: hash (hex) of all that verdicts depend on.
    """

    name: str
    kind: Kind
    source: str
    scale: Scale
    criteria: tuple[Criterion, ...]
    per_criterion: bool
    per_principle: bool
    constitution: str
    principles: tuple[Criterion, ...]
    needs: tuple[str, ...]
    hops: tuple[Hop, ...]
    written: bool
    strength: bool
    max_tokens: int
    revision: Text | None
    lines: bool
    marking: Marking
    fingerprint: str
    text: Text

    @property
    def labels(self) -> tuple[str, ...]:
        """The words that the model answers with."""
        return self.scale.words

    def render(self, values: Mapping[str, Value]) -> str | pb.Absence:
        """The text for one item, with what its hops wrote among the values; see `Text.render`."""
        return self.text.render(values)


def judged_fingerprint(model: str, *prompts: str) -> str:
    """Fingerprint (hex, 16 characters) of a model that reads a template, and whatever else belongs to what it reads."""
    return hashlib.sha256("\0".join([model, *prompts]).encode()).hexdigest()[:16]


def read_template(file: Path) -> JudgeTemplate:
    """Read and check one template file; `extends` names another in the same directory, or a built-in one.

    Raises:
        ConfigError: what is wrong, with file and field.
    """
    document = merged(file)
    try:
        parsed = TemplateDocument.model_validate(document)
    except ValidationError as error:
        raise ConfigError(describe_errors(error, str(file), TemplateDocument)) from error
    return _build(parsed, str(file))


def _build(document: TemplateDocument, source: str) -> JudgeTemplate:
    kind = document.kind
    sources = [part for part in (document.head, document.text, document.revision, *(hop.text for hop in document.hops)) if part]
    fenced = fences(sources)

    def text(field: str, own: str, hops: frozenset[str]) -> Text:
        try:
            made = Text((document.head, own), VARIABLES[kind], fenced, document.marking, hops, document.name)
        except TextError as error:
            raise ConfigError(f"{source}: {field}: {error}") from error
        trial: dict[str, Value] = {**TRIAL, **dict.fromkeys(hops, "trial")}
        if isinstance(rendered := made.render(trial), pb.Absence):
            raise ConfigError(f"{source}: {field}: {rendered.detail}")
        return made

    hops: list[Hop] = []
    earlier: frozenset[str] = frozenset()
    for index, hop in enumerate(document.hops):
        made = text(f"hops[{index}].text", hop.text, earlier)
        hops.append(Hop(hop.name, made, hop.max_tokens, hop.temperature, _grammar(hop)))
        earlier |= {hop.name}
    final = text("text", document.text, earlier)
    used = final.used.union(*(hop.text.used for hop in hops))
    if missing := sorted(REQUIRED[kind] - used):
        raise ConfigError(f"{source}: text: does not show {{{{ {missing[0]} }}}}, so the model could not judge it")
    if unread := sorted(earlier - used):
        raise ConfigError(f"{source}: hops: nothing reads what {unread[0]!r} writes; mention {{{{ {unread[0]} }}}} in a later text")
    content = canonical(document) + MARKING_NOTES[document.marking]
    return JudgeTemplate(
        name=document.name,
        kind=kind,
        source=source,
        scale=_scale(document),
        criteria=tuple(
            Criterion(c.id, c.text, c.weight, tuple(c.levels.items()), _scale(c) if c.labels else None) for c in document.criteria
        ),
        per_criterion="criterion" in used,
        per_principle=document.per_principle,
        constitution=document.constitution,
        principles=(),
        needs=tuple(document.needs),
        hops=tuple(hops),
        written=document.verdict == "written",
        strength=document.strength,
        max_tokens=document.max_tokens,
        revision=text("revision", document.revision, earlier | {"critique"}) if document.revision else None,
        lines=document.format == "lines",
        marking=document.marking,
        # The name is left out: a renamed template gives the same verdicts.
        fingerprint=hashlib.sha256(content.encode()).hexdigest()[:16],
        text=final,
    )


def _grammar(hop: HopDocument) -> Grammar | None:
    if hop.choices:
        return ChoiceGrammar(tuple(hop.choices))
    return JsonGrammar(hop.canonical_schema) if hop.json_schema is not None else None


def _scale(labelled: TemplateDocument | CriterionDocument) -> Scale:
    if isinstance(labelled, TemplateDocument) and labelled.kind != "grade":
        return Scale(labelled.words)
    low, high = labelled.bounds
    return Scale(labelled.words, labelled.values, low, high, labelled.yes_no)
