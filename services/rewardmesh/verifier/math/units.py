"""Units behind a number or formula: known ones are split off, and quantities are compared with their scale.

Scales are exact: 1 km is 1000 m, 36 km/h is 10 m/s. Units without a common scale here (degrees Celsius and Fahrenheit, dollars and
euros) are different units. An unknown word is a unit of its own: "eggs" is only "eggs".
"""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

_DAY = 86_400
_FOOT, _POUND, _GALLON = Fraction("0.3048"), Fraction("0.45359237"), Fraction("0.003785411784")


@dataclass(frozen=True, slots=True)
class Unit:
    """A product of powers of base units, times a scale."""

    scale: Fraction
    bases: tuple[tuple[str, int], ...]
    """(base, exponent), sorted, no exponent 0."""


def split_unit(text: str) -> tuple[str, Unit] | None:
    """`text` without the known unit at its end, and the unit; None when it ends with none or is nothing else.

    A symbol of one letter counts only where a space or \\text{} sets it off from the number: "5m" may be five times m.
    """
    cleaned = _cleaned(text)
    match = _AT_END.search(cleaned)
    if match is None:
        return None
    head = cleaned[: match.start()].strip()
    unit = parse_unit(match["unit"])
    return (head, unit) if unit and head and head[-1] in _ENDS_A_VALUE else None


def unit_of(text: str) -> Unit | None:
    """The unit of a quantity in prose: a currency sign before its number, known units or else the first word behind it."""
    cleaned = _cleaned(text)
    money = _MONEY.search(cleaned)
    if money:
        return _TABLE[money[1]]
    behind = _BEHIND_NUMBER.search(cleaned)
    if behind is None:
        return None
    known = _KNOWN.match(behind[1])
    if known:
        return parse_unit(known.group())
    return Unit(Fraction(1), ((_singular(behind[2].lower()), 1),)) if behind[2] else None


def parse_unit(text: str) -> Unit | None:
    """The unit that `text` names and nothing else: "km/h", "square feet", "m^2"; None when a part of it is unknown."""
    scale = Fraction(1)
    bases: Counter[str] = Counter()
    sign, rest = 1, text.strip()
    while rest:
        match = _FACTOR.match(rest)
        unit = _lookup(match["name"]) if match else None
        if match is None or unit is None:
            return None
        power = sign * _power(match)
        scale *= unit.scale**power
        for base, exponent in unit.bases:
            bases[base] += exponent * power
        rest = rest[match.end() :]
        joint = _JOINT.match(rest)
        if rest and joint is None:
            return None
        if joint:
            sign = -1 if joint["over"] else 1
            rest = rest[joint.end() :]
            if not rest:
                return None
    return Unit(scale, tuple(sorted((base, exponent) for base, exponent in bases.items() if exponent)))


def _define() -> dict[str, Unit]:
    table: dict[str, Unit] = {}

    def add(names: str, scale: Fraction | int, **bases: int) -> None:
        unit = Unit(Fraction(scale), tuple(sorted(bases.items())))
        for name in names.split():
            table[name] = unit

    def add_metric(symbol: str, name: str, scale: Fraction | int, prefixes: str, **bases: int) -> None:
        for prefix in ["", *prefixes.split()]:
            word, exponent = _PREFIXES[prefix]
            size = Fraction(10) ** exponent * scale
            add(f"{prefix}{symbol} {word}{name} {word}{name}s", size, **bases)

    add_metric("m", "meter", 1, "k c d m u n", length=1)
    add_metric("m", "metre", 1, "k c d m u n", length=1)
    add_metric("g", "gram", Fraction(1, 1000), "k m u", mass=1)
    add_metric("s", "second", 1, "m u n", time=1)
    add_metric("L", "liter", Fraction(1, 1000), "m c d", length=3)
    add_metric("l", "litre", Fraction(1, 1000), "m c d", length=3)
    add_metric("N", "newton", 1, "k", length=1, mass=1, time=-2)
    add_metric("J", "joule", 1, "k M", length=2, mass=1, time=-2)
    add_metric("W", "watt", 1, "k M m", length=2, mass=1, time=-3)
    add_metric("Pa", "pascal", 1, "k M", length=-1, mass=1, time=-2)
    add_metric("Hz", "hertz", 1, "k M", time=-1)
    add_metric("V", "volt", 1, "k m", voltage=1)
    add("in inch inches", _FOOT / 12, length=1)
    add("ft foot feet", _FOOT, length=1)
    add("yd yard yards", _FOOT * 3, length=1)
    add("mi mile miles", _FOOT * 5280, length=1)
    add("hectare hectares ha", 10_000, length=2)
    add("acre acres", _FOOT**2 * 43_560, length=2)
    add("lb lbs pound pounds", _POUND, mass=1)
    add("oz ounce ounces", _POUND / 16, mass=1)
    add("tonne tonnes", 1000, mass=1)
    add("gallon gallons gal", _GALLON, length=3)
    add("quart quarts qt", _GALLON / 4, length=3)
    add("pint pints", _GALLON / 8, length=3)
    add("cup cups", _GALLON / 16, length=3)
    add("sec secs", 1, time=1)
    add("min mins minute minutes", 60, time=1)
    add("h hr hrs hour hours", 3600, time=1)
    add("day days", _DAY, time=1)
    add("week weeks", 7 * _DAY, time=1)
    add("year years yr yrs", 1, year=1)
    add("month months", Fraction(1, 12), year=1)
    add("mph", _FOOT * 5280 / 3600, length=1, time=-1)
    add("kph kmh", Fraction(1000, 3600), length=1, time=-1)
    add("$ dollar dollars usd", 1, dollar=1)
    add("cent cents ¢", Fraction(1, 100), dollar=1)
    add("€ euro euros", 1, euro=1)
    add("£", 1, sterling=1)
    add("¥ yen", 1, yen=1)
    add("₹ rupee rupees", 1, rupee=1)
    add("° degree degrees deg", 1, degree=1)
    add("rad radian radians", 1, radian=1)
    add("°C celsius", 1, celsius=1)
    add("°F fahrenheit", 1, fahrenheit=1)
    add("K kelvin kelvins", 1, kelvin=1)
    add("unit units", 1)
    return table


_PREFIXES = {
    "": ("", 0),
    "k": ("kilo", 3),
    "M": ("mega", 6),
    "d": ("deci", -1),
    "c": ("centi", -2),
    "m": ("milli", -3),
    "u": ("micro", -6),
    "n": ("nano", -9),
}
_TABLE = _define()


_POWERS = {"²": 2, "³": 3, "squared": 2, "cubed": 3, "square": 2, "sq": 2, "cubic": 3, "cu": 3}
_ENDS_A_VALUE = frozenset("0123456789)}]") | {"i", "π"}
_NAMES = "|".join(re.escape(name) for name in sorted(_TABLE, key=len, reverse=True))
_ONE = rf"(?:(?:square|cubic|sq|cu)\.?\s+)?(?:(?i:{_NAMES}))(?![^\W\d_²³])(?:\^\{{?-?\d\}}?|[²³]|\s+(?:squared|cubed))?"
_UNITS = rf"{_ONE}(?:\s*(?:/|\bper\b|\*|·)\s*{_ONE}){{0,3}}"
_KNOWN = re.compile(_UNITS)
_AT_END = re.compile(rf"(?:(?<=\s)|(?<=\d)(?=°|[A-Za-z]{{2}}))(?P<unit>{_UNITS})\s*[.]?\s*$")
_FACTOR = re.compile(
    r"(?:(?P<before>square|cubic|sq|cu)\.?\s+)?(?P<name>°[CF]?|[^\W\d_²³]+|[$€£¥₹¢])"
    r"(?:\^\{?(?P<exponent>-?\d)\}?|(?P<sign>[²³])|\s+(?P<after>squared|cubed))?"
)
_JOINT = re.compile(r"\s*(?:(?P<over>/|per\b)|\*|·)\s*")
_MONEY = re.compile(r"([$€£¥₹])\s?-?\d")
_BEHIND_NUMBER = re.compile(r"\d[\d.,]*\s*((°[CF]?|[^\W\d_]{1,40})?.{0,80})")
_DRESSING = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|rm|operatorname)\s*\{([^{}]{0,100})\}")
_DEGREE = re.compile(r"\s*(?:\^\{?\\circ\}?|\\degree|\\circ)\s*")


def _cleaned(text: str) -> str:
    text = _DRESSING.sub(r" \1", text)
    text = _DEGREE.sub(" °", text).replace("\\cdot", "·").replace("\\$", "$").replace("\\,", " ").replace("\\ ", " ").replace("~", " ")
    return re.sub(r"°\s+(?=[CF]\b)", "°", text).replace("μ", "u").replace("µ", "u").strip()


def _lookup(name: str) -> Unit | None:
    return _TABLE.get(name) or (_TABLE.get(name.lower()) if len(name) > 2 else None)


def _power(match: re.Match[str]) -> int:
    if match["exponent"]:
        return int(match["exponent"])
    word = match["before"] or match["sign"] or match["after"]
    return _POWERS[word] if word else 1


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
