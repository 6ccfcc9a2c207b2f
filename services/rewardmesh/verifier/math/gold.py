"""References, read once: of which kind the wanted answer is decides how an answer is read."""

import re
from dataclasses import dataclass
from functools import lru_cache

from rewardmesh.verifier.answers import LONGEST, Answer, find_answers, whole_answer
from rewardmesh.verifier.math.expressions import readable
from rewardmesh.verifier.math.structure import Structure, structure_of
from rewardmesh.verifier.math.units import Unit, split_unit, unit_of
from rewardmesh.verifier.math.words import option_letter, reference_words
from rewardmesh.verifier.numbers import PlainNumber, plain, read_number

REMEMBERED = 4096

_NAME = re.compile(r"[\s$*(\\]{0,4}([A-Za-z])\s*=[^=]*$")


@dataclass(frozen=True, slots=True)
class Quantity:
    """An answer without its unit: a number, or else a formula that has still to be read."""

    number: PlainNumber | None
    formula: tuple[str, bool]
    """Text, and whether it stands in mathematics mode without saying so."""
    unit: Unit | None
    """Only a known unit; prose behind a plain number is looked at when units are asked for."""


@dataclass(frozen=True, slots=True)
class Gold:
    """A reference's answer: an option, words, several parts, a number, or else a formula; the first of these that is there."""

    answer: Answer
    letter: str | None = None
    words: str | None = None
    structure: Structure | None = None
    quantity: Quantity = Quantity(None, ("", False), None)
    unit: Unit | None = None
    """That a number or formula is given in, known or not."""
    name: str = ""
    """The unknown that a number or formula is the value of, where it says so: "x"."""

    @property
    def canonical(self) -> str:
        """The answer in one of its plainest forms."""
        return str(self.quantity.number) if self.quantity.number else shortened(plain(self.answer.text), quote=False)

    def __str__(self) -> str:
        """Canonical form in quotes, for evidence."""
        return repr(self.canonical)


@lru_cache(maxsize=REMEMBERED)
def read_gold(text: str, marker: str | None = None) -> Gold | None:
    """The answer of a reference: behind a marker, or the whole of a bare one; None when it has none. Answers of one group share it."""
    candidates = list(find_answers(text, marker)) if marker is None or marker in text else []
    bare = len(text) <= LONGEST and "\n" not in text.strip()
    if bare and not any(candidate.marked for candidate in candidates):
        candidates = [whole_answer(text)]
    return next((gold for gold in map(gold_of, candidates) if gold), None)


def gold_of(answer: Answer) -> Gold | None:
    """A stated answer as what others are compared with; None when it is of no kind that can be compared."""
    if answer.number is None:
        if letter := option_letter(answer.text):
            return Gold(answer, letter=letter)
        if structure := structure_of(answer.text):
            return Gold(answer, structure=structure, quantity=Quantity(None, (answer.text, answer.formula), None))
        if words := reference_words(answer.text):
            return Gold(answer, words=words)
    quantity = quantity_of(answer)
    if quantity.number is None and not readable(*quantity.formula):
        return None
    return Gold(answer, quantity=quantity, unit=stated_unit(answer, quantity), name=stated_name(answer))


def quantity_of(answer: Answer) -> Quantity:
    """The number or formula of an answer, and its unit when that is known."""
    if answer.number is not None:
        return Quantity(answer.number, (str(answer.number), False), None)
    text = answer.text if len(answer.text) <= LONGEST else ""
    split = split_unit(plain(text)) if text else None
    if split is None:
        return Quantity(None, (answer.text, answer.formula), None)
    head, unit = split
    # What stood between dollar signs was mathematics, and so is what is left of it.
    return Quantity(read_number(head), (head, answer.formula or "$" in answer.text), unit)


def stated_unit(answer: Answer, quantity: Quantity) -> Unit | None:
    """The unit that an answer is given in, known or not."""
    return quantity.unit or unit_of(_right_side(answer.text))


def stated_name(answer: Answer) -> str:
    """The unknown of an answer that has the form "x = 2"; empty when it has another."""
    match = _NAME.match(answer.text)
    return match[1] if match else ""


def shortened(text: str, *, quote: bool = True) -> str:
    """`text` for evidence, in quotes, cut when it is long."""
    text = text if len(text) <= 200 else text[:199] + "…"
    return repr(text) if quote else text


def _right_side(text: str) -> str:
    return text.rpartition("=")[2]
