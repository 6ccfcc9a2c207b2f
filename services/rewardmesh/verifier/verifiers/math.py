"""Math: whether the completion's final answer equals a reference, exactly for plain numbers, by math-verify for everything else.

Parsing and comparison of formulas may take forever or eat memory on hostile text; both are left to the worker's limits. Any matching
reference passes. A policy is responsible for stating its answer: a completion without a readable one fails, unless
`on_missing_answer` says "absent". A check that exceeds its limits has no verdict, unless `on_timeout` says "fail".
"""

import logging
import re
from functools import lru_cache
from typing import Any, Literal

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse
from math_verify import verify as verify_expressions
from pydantic import Field

from rewardmesh.verifier.answers import LONGEST, Answer, find_answers, whole_answer
from rewardmesh.verifier.numbers import equal, plain
from rewardmesh.verifier.registry import LimitedOptions, Verifier
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Verdict, failed, passed

# math-verify warns that its own time limit is off; the worker has one.
logging.getLogger("math_verify").setLevel(logging.ERROR)

DEEPEST = 40
"""Nested brackets beyond which text is not read as a formula: the parsers take seconds there, and no answer needs it."""

_TARGETS = (LatexExtractionConfig(), ExprExtractionConfig())
_OPERATOR = re.compile(r"[\\^_={}()\[\],+*/<>-]|\d[A-Za-z]")
_BRACKET = re.compile(r"[()\[\]{}]")
_PROSE = re.compile(r"(?<!\\)\b[A-Za-z]{3,}")


class MathOptions(LimitedOptions):
    """How to find the answer."""

    answer_marker: str | None = Field(
        None, min_length=1, description="Only text behind its last occurrence is an answer; unset for the usual markers."
    )
    on_missing_answer: Literal["fail", "absent"] = Field("fail", description="What a completion without a readable answer gets.")


def verify(sample: SampleFields, options: MathOptions) -> Verdict | NoVerdict:
    """INVALID_INPUT when no reference can be read; UNPARSABLE for a missing answer with `on_missing_answer: absent`."""
    golds = [gold for gold in (_reference(text, options.answer_marker) for text in sample.references) if gold is not None]
    if not golds:
        return NoVerdict(Reason.INVALID_INPUT, f"references: no answer could be read from {_short(sample.references[0])}")
    for answer in find_answers(sample.completion, options.answer_marker):
        expressions = [] if answer.number else _expressions(answer.text, answer.formula)
        if answer.number or expressions:
            return _compare(answer, expressions, golds)
    detail = "the completion states no answer that can be read"
    return failed(detail) if options.on_missing_answer == "fail" else NoVerdict(Reason.UNPARSABLE, detail)


def _compare(answer: Answer, expressions: list[Any], golds: list[tuple[Answer, tuple[Any, ...]]]) -> Verdict:
    stated = str(answer.number) if answer.number else _short(plain(answer.text), quote=False)
    span = (answer.start, answer.end)
    found = f"answer {stated!r} ({answer.source})"
    for gold, gold_expressions in golds:
        if gold.number and answer.number:
            same = equal(gold.number, answer.number)
        else:
            same = _same(list(gold_expressions) or _expressions(gold.text, gold.formula), expressions or _expressions(str(answer.number)))
        if same:
            return passed(f"{found} equals reference {_canonical(gold)}", extracted_answer=stated, span=span)
    wanted = " or ".join(_canonical(gold) for gold, _ in golds)
    return failed(f"{found} does not equal reference {wanted}", extracted_answer=stated, span=span)


@lru_cache(maxsize=4096)
def _reference(text: str, marker: str | None) -> tuple[Answer, tuple[Any, ...]] | None:
    """The gold answer of a reference, with its expressions when it is no plain number. Answers of one group share it."""
    candidates = list(find_answers(text, marker)) if marker is None or marker in text else []
    bare = len(text) <= LONGEST and "\n" not in text.strip()
    if bare and not any(candidate.source.startswith(("after", "in")) for candidate in candidates):
        candidates = [whole_answer(text)]
    for candidate in candidates:
        if candidate.number:
            return candidate, ()
        expressions = _expressions(candidate.text, candidate.formula)
        if expressions:
            return candidate, tuple(expressions)
    return None


def _expressions(text: str, formula: bool = False) -> list[Any]:
    """What math-verify reads in `text`: sympy expressions and strings, best first; empty when nothing.

    Text without LaTeX delimiters that looks like a formula (or stands in \\boxed{}) is read as one first: math-verify would pick single
    numbers from it.
    """
    # "**" is a power to math-verify's reader of expressions and means nothing in LaTeX.
    marked = any(sign in text for sign in ("$", "\\(", "\\[", "**"))
    if not marked and (formula or (len(text) <= LONGEST and _OPERATOR.search(text) and not _PROSE.search(text))):
        found = _parsed(f"${text}$")
        if found and not isinstance(found[0], str):
            return found
    return _parsed(text)


def _parsed(text: str) -> list[Any]:
    if _depth(text) > DEEPEST:
        return []
    try:
        return list(parse(text, _TARGETS, parsing_timeout=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the parsers raise every kind of error on text that is no mathematics
        return []


def _depth(text: str) -> int:
    depth = deepest = 0
    for sign in _BRACKET.findall(text):
        depth += 1 if sign in "([{" else -1
        deepest = max(deepest, depth)
    return deepest


def _same(golds: list[Any], answers: list[Any]) -> bool:
    try:
        return bool(verify_expressions(golds, answers, timeout_seconds=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - sympy raises every kind of error on expressions that cannot be compared
        return False


def _canonical(answer: Answer) -> str:
    return repr(str(answer.number)) if answer.number else _short(plain(answer.text))


def _short(text: str, *, quote: bool = True) -> str:
    text = text if len(text) <= 200 else text[:199] + "…"
    return repr(text) if quote else text


VERIFIER = Verifier(
    "math", "The final answer equals a reference, as a number or as an expression.", ("completion.text", "references"), MathOptions, verify
)
