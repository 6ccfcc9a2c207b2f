"""Groundedness: whether the claims of the completion stand in the given passages, and whether its citations hold.

Passages are the sample's notes (`context.notes`), or else its references, cited by number from 1. The claims are the sentences. A claim is
supported when enough of its words, and all of its numbers, names and quotations, stand in the passages it cites, and it is negated as they
are. Recall and precision of citations are those of ALCE (Gao et al. 2023, arXiv 2305.14627), with this lexical support in the place of
a model of entailment.

What lexical support cannot see: a paraphrase in other words (refused, though true), a claim that joins the passage's words in another way
(who did what to whom) or negates another part of it (accepted, though false). A judge template that is given the passages as notes decides
these better, for the price of a model. This one is for form, numbers, names and quotations, and as a gate before a judge.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Literal, NamedTuple

from pydantic import Field, field_validator

from rewardmesh.verifier.passages import Passage, content_words, passage, support
from rewardmesh.verifier.patterns import LinearPattern, linear
from rewardmesh.verifier.registry import LimitedOptions, Verifier
from rewardmesh.verifier.sentences import sentences
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, StepVerdict, Verdict, step_of

MOST_CLAIMS = 400
"""Claims of a completion that are checked; a longer one is TOO_LONG."""
MOST_CITED = 64
"""Passages that one claim may cite; more are a mistake of the claim."""
_SPACED = re.compile(r" ([.,;:!])")


class GroundednessOptions(LimitedOptions):
    """What counts as a claim, a citation and support."""

    citation_pattern: LinearPattern = Field(
        r"\[(\d{1,4}(?:\s*[,;–-]\s*\d{1,4})*)\]",
        description='RE2 pattern of a citation, with one group that holds numbers: "2", "2, 3" or "2-4". For "(source: 2)": '
        r"\(source: (\d+)\)",
    )
    require_citations: bool = Field(
        False, description="Whether a claim without a citation fails; otherwise it is checked against all passages."
    )
    min_recall: float = Field(0.6, gt=0, le=1, description="Share of a claim's content words that its passages must hold.")
    min_words: int = Field(3, ge=1, description="Content words that make a sentence a claim. Shorter sentences, and questions, are none.")
    check_facts: bool = Field(True, description="Whether all numbers, names and quotations of a claim must stand in its passages.")
    check_negation: bool = Field(
        True, description="Whether a claim must hold a negating word when the passage's sentence most like it does, and none otherwise."
    )
    score: Literal["recall", "f1"] = Field(
        "recall",
        description="recall: the share of the claims that are supported. f1: its harmonic mean with the share of citations that matter.",
    )

    @field_validator("citation_pattern")
    @classmethod
    def _one_group(cls, pattern: str) -> str:
        if linear(pattern).groups != 1:
            raise ValueError("must have exactly one group, which holds the numbers; write (?:...) for the others")
        return pattern


class Claim(NamedTuple):
    """A sentence that states something."""

    text: str
    """Without its citations."""
    span: tuple[int, int]
    """Code-point offsets [start, end) in the completion."""
    cited: tuple[int, ...]
    """Numbers of passages, in order."""


def verify(sample: SampleFields, options: GroundednessOptions) -> Verdict | NoVerdict:
    """NOT_APPLICABLE without passages, ABSTAINED without a claim."""
    texts = sample.more.notes or sample.references
    if not texts:
        return NoVerdict(Reason.NOT_APPLICABLE, "the sample has neither context.notes nor references to hold its claims against")
    claims = claims_of(sample.completion, options)
    if not claims:
        return NoVerdict(Reason.ABSTAINED, f"the completion makes no claim of at least {options.min_words} content words")
    if len(claims) > MOST_CLAIMS:
        return NoVerdict(Reason.TOO_LONG, f"{len(claims)} claims; at most {MOST_CLAIMS} are checked")
    return _judged(claims, [passage(text) for text in texts], options)


def claims_of(text: str, options: GroundednessOptions) -> list[Claim]:
    """The claims of a completion. A citation between two sentences belongs to the one before it."""
    plain, citations, at = [], [], 0
    for match in linear(options.citation_pattern).finditer(text):
        start, end = match.span()
        citations.append((start, _numbers(match.group(1) or "")))
        plain.append(text[at:start] + " " * (end - start))
        at = end
    masked = "".join([*plain, text[at:]])
    spans = sentences(masked)
    starts = [start for start, _ in spans]
    cited: list[list[int]] = [[] for _ in spans]
    for start, numbers in citations:
        if spans:
            cited[max(0, bisect_right(starts, start) - 1)].extend(numbers)
    claims = []
    for (start, end), numbers in zip(spans, cited, strict=True):
        claim = _SPACED.sub(r"\1", " ".join(masked[start:end].split()))
        if not claim.endswith("?") and len(content_words(claim)) >= options.min_words:
            claims.append(Claim(claim, (start, end), tuple(dict.fromkeys(numbers))))
    return claims


def _judged(claims: list[Claim], passages: list[Passage], options: GroundednessOptions) -> Verdict:
    supported = cited = useful = 0
    steps: list[StepVerdict] = []
    failures: list[tuple[str, str, tuple[int, int]]] = []
    for number, claim in enumerate(claims):
        category, evidence = _checked(claim, passages, options)
        supported += not category
        known = [index for index in claim.cited if 1 <= index <= len(passages)]
        cited += len(claim.cited)
        if not category:
            useful += sum(_matters(claim, index, known, passages, options) for index in known)
        steps.append(step_of(number, float(not category), evidence))
        if category:
            failures.append((category, evidence, claim.span))
    recall = supported / len(claims)
    precision = useful / cited if cited else None
    score = recall
    if options.score == "f1" and precision is not None:
        score = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
    told = "no citations" if precision is None else f"{useful} of {cited} citations matter"
    summary = f"{supported} of {len(claims)} claims are supported; {told}"
    if not failures:
        status = Status.PASS if score == 1 else Status.PARTIAL if score else Status.FAIL
        return Verdict(status, score, summary, steps=tuple(steps), category="" if score == 1 else "needless-citation")
    category, evidence, span = failures[0]
    status = Status.PARTIAL if score else Status.FAIL
    return Verdict(status, score, f"{summary}; first: {evidence}", "", span, steps=tuple(steps), category=category)


def _checked(claim: Claim, passages: list[Passage], options: GroundednessOptions) -> tuple[str, str]:
    """The category of what is wrong with a claim, empty for nothing, and evidence."""
    quoted = repr(claim.text if len(claim.text) <= 120 else claim.text[:119] + "…")
    if not claim.cited and options.require_citations:
        return "uncited", f"{quoted} cites nothing"
    unknown = [index for index in claim.cited if not 1 <= index <= len(passages)]
    if unknown or len(claim.cited) > MOST_CITED:
        return "unresolved-citation", f"{quoted} cites {unknown[:3] or len(claim.cited)}; there are {len(passages)} passages"
    read = [passages[index - 1] for index in claim.cited] if claim.cited else passages
    where = f"passages {', '.join(map(str, claim.cited))}" if claim.cited else "the passages"
    found = support(claim.text, read)
    if options.check_facts and found.missing:
        named = ", ".join(one[:60] for one in found.missing[:3])
        return ("misquoted" if found.misquoted else "unsupported"), f"{quoted}: {named} not in {where}"
    if found.recall < options.min_recall:
        return "unsupported", f"{quoted}: {found.recall:.0%} of its words in {where}"
    if options.check_negation and found.negation:
        return "negation", f"{quoted}: negated otherwise than in {where}"
    return "", f"{quoted}: {found.recall:.0%} of its words in {where}"


def _matters(claim: Claim, index: int, known: list[int], passages: list[Passage], options: GroundednessOptions) -> bool:
    """Whether a citation of a supported claim supports it alone, or is needed beside the others."""

    def enough(indices: tuple[int, ...]) -> bool:
        return bool(indices) and not _checked(claim._replace(cited=indices), passages, options)[0]

    return enough((index,)) or not enough(tuple(other for other in known if other != index))


def _numbers(written: str) -> list[int]:
    """The numbers of a citation; a range stands for all in it, up to MOST_CITED."""
    found: list[int] = []
    for part in written.replace(";", ",").split(","):
        first, _, last = part.replace("–", "-").partition("-")
        ends = [int(end) for end in (first, last or first) if end.strip().isdecimal()]
        if len(ends) == 2:
            found.extend(range(ends[0], min(ends[1], ends[0] + MOST_CITED) + 1))
    return found


VERIFIER = Verifier(
    "groundedness",
    "The completion's claims stand in the given passages, by their words, numbers, names and quotations, and its citations hold.",
    ("completion.text",),
    GroundednessOptions,
    verify,
    reads=("context.notes",),
)
