"""Formulas, read and compared by math-verify and sympy.

Both may take forever or eat memory on hostile text: nothing here has a limit of its own but for the depth of brackets, the worker has.
What has been read or compared is remembered: answers of a group share their reference, and often each other's text.
"""

import logging
import math
import re
from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse
from math_verify import verify as verify_expressions

from rewardmesh.verifier.answers import LONGEST

# math-verify warns that its own time limit is off; the worker has one.
logging.getLogger("math_verify").setLevel(logging.ERROR)

DEEPEST = 40
"""Nested brackets beyond which text is not read as a formula: the parsers take seconds there, and no answer needs it."""
REMEMBERED = 4096

_TARGETS = (LatexExtractionConfig(), ExprExtractionConfig())
_OPERATOR = re.compile(r"[\\^_={}()\[\],+*/<>-]|\d[A-Za-z]")
_BRACKET = re.compile(r"[()\[\]{}]")
_PROSE = re.compile(r"(?<!\\)\b[A-Za-z]{3,}")
_NOISE = re.compile(r"(?<!\\)\\(?:left|right|displaystyle|[,;!: ])|[\s$~]|\\\(|\\\)|\\\[|\\\]|\.$")
_FRACTION = re.compile(r"\\[dtc]frac")
_SHORT_FRACTION = re.compile(r"\\frac(?:(\d)|\{([^{}]*)\})(?:(\d)|\{([^{}]*)\})")


def readable(text: str, formula: bool = False) -> bool:
    """Whether `text` holds something that is mathematics. `formula`: whether it stands in LaTeX's mathematics mode without saying so."""
    return bool(_expressions(text, formula))


def same(gold: tuple[str, bool], answer: tuple[str, bool]) -> bool:
    """Whether two readable formulas, each (text, whether it stands in mathematics mode), are equal. Not always symmetric."""
    return compact(gold[0]) == compact(answer[0]) or _same(gold, answer)


@lru_cache(maxsize=REMEMBERED)
def real_value(text: str, formula: bool = False) -> float | None:
    """The real number that a formula is; None when it is none (a set, an equation, something with variables)."""
    for expression in _expressions(text, formula):
        if getattr(expression, "is_number", False):
            try:
                number = complex(expression.evalf(30))
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001 - sympy raises every kind of error on expressions it cannot evaluate
                return None
            return number.real if number.imag == 0 and math.isfinite(number.real) else None
    return None


def compact(text: str) -> str:
    """`text` without what never changes a formula's meaning: equal ones are equal formulas."""
    return _SHORT_FRACTION.sub(_braced, _FRACTION.sub(r"\\frac", _NOISE.sub("", text.strip())))


def looks_like_prose(text: str) -> bool:
    """Whether `text` has a word of at least three letters that is no LaTeX command."""
    return _PROSE.search(text) is not None


def _braced(match: re.Match[str]) -> str:
    above, below = match[1] or match[2] or "", match[3] or match[4] or ""
    return f"\\frac{{{above}}}{{{below}}}"


@lru_cache(maxsize=REMEMBERED)
def _same(gold: tuple[str, bool], answer: tuple[str, bool]) -> bool:
    try:
        return bool(verify_expressions(list(_expressions(*gold)), list(_expressions(*answer)), timeout_seconds=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - sympy raises every kind of error on expressions that cannot be compared
        return False


@lru_cache(maxsize=REMEMBERED)
def _expressions(text: str, formula: bool) -> tuple[Any, ...]:
    """What math-verify reads in `text`: sympy expressions and strings, best first; empty when nothing.

    Text without LaTeX delimiters that looks like a formula (or stands in \\boxed{}) is read as one first: math-verify would pick single
    numbers from it.
    """
    # "**" is a power to math-verify's reader of expressions and means nothing in LaTeX.
    marked = any(sign in text for sign in ("$", "\\(", "\\[", "**"))
    if not marked and (formula or (len(text) <= LONGEST and _OPERATOR.search(text) and not looks_like_prose(text))):
        found = _parsed(f"${text}$")
        if found and not isinstance(found[0], str):
            return found
    return _parsed(text)


def _parsed(text: str) -> tuple[Any, ...]:
    if _depth(text) > DEEPEST:
        return ()
    try:
        return tuple(parse(text, _TARGETS, parsing_timeout=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the parsers raise every kind of error on text that is no mathematics
        return ()


def _depth(text: str) -> int:
    depth = deepest = 0
    for sign in _BRACKET.findall(text):
        depth += 1 if sign in "([{" else -1
        deepest = max(deepest, depth)
    return deepest
