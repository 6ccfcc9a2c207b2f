"""Plain numbers, read exactly: the fast path that spares most answers a computer-algebra system.

Reads integers, decimals, 1,234 groups, simple and mixed fractions (also as \\frac), currency signs, percent signs and unit words.
Everything else (operators, powers, variables, several numbers) is declined and left to math-verify.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

TOLERANCE = Fraction(1, 2_000_000)
"""Whole numbers must be equal; others may differ by less than half a unit of the sixth decimal, as math-verify rounds."""

_DIGITS = r"(?:\d{1,3}(?:,\d{3}){1,10}(?!\d)|\d{1,400}(?!\d))"
_VALUE = (
    r"(?:(?P<mixed>\d{1,9})[ ](?=\d{1,9}/\d))?"
    rf"(?P<whole>{_DIGITS})?(?P<decimals>\.\d{{1,400}}(?!\d))?(?:[eE](?P<exponent>[-+]?\d{{1,2}}(?!\d)))?"
    r"(?:[ ]?/[ ]?(?P<below>\d{1,400}(?!\d)))?"
)
_NUMBER = re.compile(rf"(?:(?P<sign>[-+−])[ ]?)?(?:[$€£¥₹][ ]?)?(?P<minus>-?)(?=[\d.]){_VALUE}(?P<percent>[ ]?%)?")
_LATEX_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{(-?\d{1,40})\}|(\d))\s*(?:\{(\d{1,40})\}|(\d))")
_SCIENTIFIC = re.compile(r"(?<=\d)\s*(?:\\times|\\cdot|×|·|\*|x)\s*10\s*\^\s*(?:\{([-+]?\d{1,2})\}|([-+]?\d{1,2})(?!\d))")
_SPACES = str.maketrans("\u00a0\u2009\u202f", "   ")
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}\\]{0,100})\}")
_END = re.compile(r"[ ]*(?:$|[.;?)](?:\s|$)|[,:](?=\s*[^\d\s-])|,?\s+(?=[^\W\d_]{2})|-?(?=[^\W\d_]{2}))")
_JOINED_BEFORE = re.compile(r"(?:[*/^+×÷]\s*|[\w.,])$")
_JOINED_AFTER = re.compile(r"\s*[*/^+×÷]|!|[.,]\d")
_WORD = re.compile(r"[^\W\d_]+")
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NOT_UNITS = frozenset(
    {"and", "or", "to", "over", "plus", "minus", "times", "divided", "half", "squared", "cubed", "mod", "choose", "factorial"}
    | {"pi", "sqrt", "sin", "cos", "tan", "cot", "sec", "log", "ln", "exp"}
)


@dataclass(frozen=True, slots=True)
class PlainNumber:
    """A rational number as it was written."""

    value: Fraction
    percent: bool = False
    """Whether a percent sign followed; value is 50 for "50%"."""

    def __str__(self) -> str:
        """Canonical form: "18", "0.25" where the decimal terminates within 12 places, else "1/3"; with its percent sign."""
        sign = "%" if self.percent else ""
        value = self.value
        if value.denominator == 1:
            return f"{value.numerator}{sign}"
        scaled = value * 10**12
        if scaled.denominator == 1:
            whole, rest = divmod(abs(scaled.numerator), 10**12)
            return f"{'-' if value < 0 else ''}{whole}.{rest:012d}".rstrip("0") + sign
        return f"{value.numerator}/{value.denominator}{sign}"


def read_number(text: str) -> PlainNumber | None:
    """The number that `text` begins with, when what follows is nothing but its unit or prose; None when it is not that simple."""
    text = plain(text)
    match = _NUMBER.match(text)
    number = _value(match) if match else None
    if match is None or number is None:
        return None
    end = _END.match(text, match.end())
    if end is None:
        return None
    word = _WORD.match(text, end.end())
    if word:
        name = word.group().lower()
        if name in _NOT_UNITS:
            return None
        if name in _SCALES:
            return PlainNumber(number.value * _SCALES[name])
        if name in {"percent", "percentage", "pct"}:
            return PlainNumber(number.value, percent=True)
    return number


def numbers_in(text: str) -> list[tuple[int, int, PlainNumber]]:
    """All standalone numbers of `text` as (start, end, number); those next to an operator, a variable or more digits are left out."""
    found = []
    for match in _NUMBER.finditer(text):
        number = _value(match)
        # Eight characters are enough to see an operator behind some spaces.
        before, after = text[max(0, match.start() - 8) : match.start()], text[match.end() : match.end() + 8]
        if number and not _JOINED_BEFORE.search(before) and not _JOINED_AFTER.match(after) and not _variable(text, match.end()):
            found.append((match.start(), match.end(), number))
    return found


def _variable(text: str, start: int) -> bool:
    word = _WORD.match(text, start)
    return word is not None and (len(word.group()) == 1 or word.group().lower() in _NOT_UNITS)


def equal(gold: PlainNumber, answer: PlainNumber) -> bool:
    """Whether both name the same number. When one of them has a percent sign, 50% equals both 50 and 0.5."""
    if _close(gold.value, answer.value):
        return True
    if gold.percent == answer.percent:
        return False
    return _close(gold.value / 100, answer.value) if gold.percent else _close(gold.value, answer.value / 100)


def plain(text: str) -> str:
    """`text` without the Markdown and LaTeX dressing around a plain answer."""
    text = text.translate(_SPACES).strip()
    if "\\" in text:
        text = text.replace("\\$", "$").replace("\\%", "%").replace("\\!", "").replace("\\,", "").replace("\\ ", " ")
        for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
            text = text.removeprefix(opening).removesuffix(closing)
        text = _TEXT_COMMAND.sub(r" \1", text)
        # The space makes 3\\frac{1}{2} a mixed number.
        text = _LATEX_FRACTION.sub(r" \1\2/\3\4", text)
    if "10" in text:
        text = _SCIENTIFIC.sub(r"e\1\2", text)
    text = text.replace("{,}", ",").strip(" *_`\t\n")
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text.strip("$")
    return text.strip(" *_`\t\n")


def _value(match: re.Match[str]) -> PlainNumber | None:
    whole, decimals, below = match["whole"], match["decimals"], match["below"]
    if not whole and not decimals:
        return None
    value = Fraction(f"{(whole or '0').replace(',', '')}{decimals or ''}")
    if match["exponent"]:
        value *= Fraction(10) ** int(match["exponent"])
    if below:
        if int(below) == 0:
            return None
        value /= int(below)
    if match["mixed"]:
        value += int(match["mixed"])
    negative = (match["sign"] in {"-", "−"}) != (match["minus"] == "-")
    return PlainNumber(-value if negative else value, percent=bool(match["percent"]))


def _close(one: Fraction, other: Fraction) -> bool:
    if one.denominator == other.denominator == 1:
        return one == other
    return abs(one - other) < TOLERANCE
