"""Whether an answer equals a reference: numbers exactly, parts one by one, formulas by math-verify, and how near it is otherwise."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from rewardmesh.verifier.answers import Answer, is_equation
from rewardmesh.verifier.math.expressions import readable, real_value, same
from rewardmesh.verifier.math.gold import Gold, Quantity, quantity_of, stated_name, stated_unit
from rewardmesh.verifier.math.structure import Kind, Structure, structure_of
from rewardmesh.verifier.math.words import chosen_option, stated_words
from rewardmesh.verifier.numbers import PlainNumber, equal, plain, read_number

Part = str | Structure


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts as equal."""

    absolute_tolerance: float = 0.0
    relative_tolerance: float = 0.0
    """Times the reference. Numbers differ by at most the greater tolerance."""
    graded: bool = False
    """Whether what lies within the tolerance gets 1 - distance / tolerance."""
    ordered_lists: bool = False
    units: Literal["ignore", "require"] = "ignore"

    def tolerance(self, gold: float) -> float:
        """How far a number may be from `gold`."""
        return max(self.absolute_tolerance, self.relative_tolerance * abs(gold))


EXACT = Rules()


@dataclass(frozen=True, slots=True)
class Match:
    """How an answer compares: 1 equal (or within the tolerance), 0 different, between them by distance."""

    score: float
    why: str = ""
    """What made the difference when it is not the value."""


SAME, DIFFERENT = Match(1.0), Match(0.0)


def compare(gold: Gold, answer: Answer, rules: Rules = EXACT) -> Match | None:
    """None when the answer cannot be read as anything that the reference's kind could be compared with."""
    if gold.letter:
        letter = chosen_option(answer)
        return None if letter is None else _exactly(letter == gold.letter)
    if gold.words:
        words = stated_words(answer)
        return _exactly(words == gold.words) if words else None
    if gold.name and (name := stated_name(answer)) and name != gold.name:
        return Match(0.0, f"it is the value of {name}")
    quantity = quantity_of(answer)
    structure = None if quantity.number else structure_of(answer.text)
    if gold.structure and structure:
        return Match(_parts_score(gold.structure, structure, rules))
    single = _single(structure) if structure else None
    if single is not None:
        quantity, structure = _quantity(single), None
    if gold.structure:
        wanted = _single(gold.structure)
        if wanted is not None and quantity.number:
            return Match(_value_score(wanted, str(quantity.number), rules))
        if quantity.number:
            return DIFFERENT
    elif structure and not readable(*gold.quantity.formula):
        return DIFFERENT
    if gold.unit and rules.units == "require":
        scaled, why = _in_unit(gold, answer, quantity)
        if scaled is None:
            return Match(0.0, why)
        quantity = scaled
    return _quantities(gold.quantity, quantity, rules)


def _in_unit(gold: Gold, answer: Answer, quantity: Quantity) -> tuple[Quantity | None, str]:
    """The answer's quantity in the reference's unit; None and the reason when that cannot be."""
    unit = stated_unit(answer, quantity)
    if unit is None or gold.unit is None:
        return None, "the unit is missing"
    if unit.bases != gold.unit.bases:
        return None, "the unit is another"
    factor = unit.scale / gold.unit.scale
    if factor == 1:
        return quantity, ""
    if quantity.number:
        number = PlainNumber(quantity.number.value * factor)
        return Quantity(number, (str(number), False), gold.unit), ""
    return Quantity(None, (f"({quantity.formula[0]}) \\cdot \\frac{{{factor.numerator}}}{{{factor.denominator}}}", True), gold.unit), ""


def _quantities(gold: Quantity, answer: Quantity, rules: Rules) -> Match | None:
    if gold.number and answer.number:
        return Match(_number_score(gold.number, answer.number, rules))
    if not readable(*answer.formula):
        return None
    if gold.number and is_equation(answer.formula[0]):
        return DIFFERENT
    return Match(_formula_score(gold.formula, answer.formula, rules))


def _number_score(gold: PlainNumber, answer: PlainNumber, rules: Rules) -> float:
    if equal(gold, answer):
        return 1.0
    if not (rules.absolute_tolerance or rules.relative_tolerance):
        return 0.0
    wanted, given = [gold.value], [answer.value]
    if gold.percent != answer.percent:
        (wanted if gold.percent else given).append((gold if gold.percent else answer).value / 100)
    return max(_near(one, other, rules) for one in wanted for other in given)


def _near(gold: Fraction, answer: Fraction, rules: Rules) -> float:
    try:
        tolerance, distance = rules.tolerance(float(gold)), float(abs(gold - answer))
    except OverflowError:  # beyond what a float holds: far from everything that is not equal
        return 0.0
    if not distance <= tolerance or tolerance == 0:
        return 0.0
    return 1 - distance / tolerance if rules.graded else 1.0


def _formula_score(gold: tuple[str, bool], answer: tuple[str, bool], rules: Rules) -> float:
    if same(gold, answer):
        return 1.0
    if rules.absolute_tolerance or rules.relative_tolerance:
        wanted, given = real_value(*gold), real_value(*answer)
        if wanted is not None and given is not None:
            return _near(Fraction(wanted), Fraction(given), rules)
    return 0.0


def _parts_score(gold: Structure, answer: Structure, rules: Rules) -> float:
    """The least score of any two parts that belong together; 0 when the kinds differ."""
    kinds = {gold.kind, answer.kind}
    if len(gold.parts) != len(answer.parts) or gold.columns != answer.columns:
        return 0.0
    if kinds <= {Kind.SET, Kind.LIST} or kinds == {Kind.UNION}:
        unordered = kinds != {Kind.LIST} or not rules.ordered_lists
        return _unordered(gold.parts, answer.parts, rules) if unordered else _ordered(gold.parts, answer.parts, rules)
    if kinds == {Kind.TUPLE}:
        # Of two parts both may be intervals, and then the brackets tell whether the ends belong to them.
        fits = len(gold.parts) != 2 or gold.brackets == answer.brackets
        return _ordered(gold.parts, answer.parts, rules) if fits else 0.0
    return _ordered(gold.parts, answer.parts, rules) if kinds in ({Kind.MATRIX}, {Kind.TUPLE, Kind.LIST}) else 0.0


def _ordered(gold: Sequence[Part], answer: Sequence[Part], rules: Rules) -> float:
    return _least(_part_score(one, other, rules) for one, other in zip(gold, answer, strict=True))


def _unordered(gold: Sequence[Part], answer: Sequence[Part], rules: Rules) -> float:
    """Each reference part takes the nearest of the answer's parts that are left."""
    left = list(answer)

    def take(part: Part) -> float:
        scores = []
        for other in left:
            scores.append(_part_score(part, other, rules))
            if scores[-1] == 1:
                break
        best = max(range(len(scores)), key=scores.__getitem__)
        del left[best]
        return scores[best]

    return _least(map(take, gold))


def _least(scores: Iterable[float]) -> float:
    """Of scores that are computed one by one: nothing is compared behind the first 0."""
    least = 1.0
    for score in scores:
        least = min(least, score)
        if least == 0:
            break
    return least


def _part_score(gold: Part, answer: Part, rules: Rules) -> float:
    if isinstance(gold, str) and isinstance(answer, str):
        return _value_score(gold, answer, rules)
    if isinstance(gold, str) or isinstance(answer, str):
        return 0.0
    return _parts_score(gold, answer, rules)


def _value_score(gold: str, answer: str, rules: Rules) -> float:
    """Of two formulas without structure; "x = 1" is 1, but not what "y = 1" is."""
    name, gold = _named(gold)
    other, answer = _named(answer)
    if name and other and name != other:
        return 0.0
    match = _quantities(_quantity(gold), _quantity(answer), rules)
    return match.score if match else 0.0


def _quantity(text: str) -> Quantity:
    return Quantity(read_number(plain(text)), (text, True), None)


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    name = name.strip()
    return (name, value.strip()) if equals and value.strip() and (len(name) == 1 or "_" in name) and name[0].isalpha() else ("", text)


def _single(structure: Structure) -> str | None:
    """The only part of a set of one, which is that part."""
    part = structure.parts[0]
    return part if structure.kind is Kind.SET and len(structure.parts) == 1 and isinstance(part, str) else None


def _exactly(same: bool) -> Match:
    return SAME if same else DIFFERENT
