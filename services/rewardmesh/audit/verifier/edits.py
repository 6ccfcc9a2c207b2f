"""Metamorphic edits: changes of a right answer after which the verdict must be the same, and changes after which it must not.

The final answer is found as the last line of the text that begins with a marker ("A:", "####", "Answer:", "The answer is") and holds
one number; an answer without such a line is left alone. A number that occurs in the working too is changed in the last line only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_FINAL = re.compile(r"^(?P<marker>[ \t*]*(?:A:|####|(?i:the answer is|answer:))[ \t]*)\$?(?P<number>-?\d[\d,]*(?:\.\d+)?)\.?[ \t]*$")
_DIGITS = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Final:
    """A text with its final answer taken apart: the text before the last line, the line's marker, and the number as written."""

    before: str
    marker: str
    number: str

    def with_last(self, line: str) -> str:
        """The text with another last line."""
        return f"{self.before}{line}"


@dataclass(frozen=True)
class Metamorphosis:
    """One edit. `keeps`: whether the verdict has to stay (else it has to change). It gives None where it does not apply."""

    name: str
    keeps: bool
    change: Callable[[Final], str | None]


def final(text: str) -> Final | None:
    """The final answer of a text; None when its last line is none."""
    stripped = text.rstrip()
    start = stripped.rfind("\n") + 1
    match = _FINAL.match(stripped[start:])
    return Final(stripped[:start], match["marker"], match["number"]) if match else None


def _whole(each: Final) -> str:
    return each.with_last(f"{each.marker}{each.number}")


def _thousands(each: Final) -> str | None:
    plain = each.number.replace(",", "")
    whole, dot, decimals = plain.partition(".")
    if len(whole.lstrip("-")) < 4:
        return None
    other = plain if "," in each.number else f"{int(whole):,}{dot}{decimals}"
    return each.with_last(f"{each.marker}{other}")


def _perturbed(by: int) -> Callable[[Final], str]:
    def change(each: Final) -> str:
        whole, dot, decimals = each.number.replace(",", "").partition(".")
        return each.with_last(f"{each.marker}{int(whole) + by}{dot}{decimals}")

    return change


def _other_sign(each: Final) -> str | None:
    plain = each.number.replace(",", "")
    if not float(plain):
        return None
    return each.with_last(f"{each.marker}{plain[1:] if plain.startswith('-') else '-' + plain}")


def _digit_more(each: Final) -> str | None:
    """A digit appended to a whole number."""
    return None if "." in each.number else each.with_last(f"{each.marker}{each.number.replace(',', '')}7")


MATH = (
    Metamorphosis("white space around", True, lambda each: f"\n  {_whole(each)}  \n\n"),
    Metamorphosis("1,000 for 1000, or the reverse", True, _thousands),
    Metamorphosis("\\boxed{} in place of the marker", True, lambda each: each.with_last(f"\\boxed{{{each.number}}}")),
    Metamorphosis("'The answer is' in place of the marker", True, lambda each: each.with_last(f"The answer is {each.number}.")),
    Metamorphosis("full stop after the number", True, lambda each: f"{_whole(each)}."),
    Metamorphosis("a unit after the number", True, lambda each: f"{_whole(each)} units"),
    Metamorphosis("a sentence after the answer", True, lambda each: f"{_whole(each)}\nI hope this helps."),
    Metamorphosis("one more", False, _perturbed(1)),
    Metamorphosis("ten less", False, _perturbed(-10)),
    Metamorphosis("the other sign", False, _other_sign),
    Metamorphosis("a digit more", False, _digit_more),
    Metamorphosis("every number taken out", False, lambda each: _DIGITS.sub("some", _whole(each))),
)
