"""Numbers of a summary made readable: what isn't a number stays visible as such, and an accuracy comes with its uncertainty."""

import math
from collections.abc import Mapping

MISSING = "–"


def number(value: object) -> float | None:
    """The value as a finite float, or None where it is missing, no number, or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def text_of(value: object, digits: int = 3) -> str:
    """The value for a table: whole numbers with thousands separators, others rounded to `digits`, "–" where there is none."""
    if value is None:
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and (isinstance(value, int) or abs(value) >= 1000):
        return f"{int(value):,}"
    if value != 0 and abs(value) < 10**-digits:
        return f"{value:.2g}"
    return f"{value:,.{digits}f}"


def percent(value: object) -> str:
    """A share in [0, 1] as a percentage."""
    share = number(value)
    return MISSING if share is None else f"{100 * share:.1f} %"


def change(before: object, after: object, *, as_percent: bool = False, digits: int = 3) -> str:
    """after − before with its sign, "–" where one of them is missing. Percentages give points."""
    first, last = number(before), number(after)
    if first is None or last is None:
        return MISSING
    return f"{100 * (last - first):+.1f} points" if as_percent else f"{last - first:+.{digits}f}"


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """95% interval of a binomial share seen in n trials (Wilson 1927), which stays inside [0, 1] near the ends."""
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy_text(share: object, n: object) -> str:
    """An accuracy with its 95% interval, as far as n is known."""
    value, trials = number(share), number(n)
    if value is None:
        return MISSING
    if trials is None or trials < 1 or not 0 <= value <= 1:
        return percent(value)
    low, high = wilson_interval(value, int(trials))
    return f"{percent(value)} [{100 * low:.1f}, {100 * high:.1f}]"


def section(summary: Mapping[str, object], key: str) -> dict[str, object]:
    """A nested object of the summary; empty where it is missing or something else."""
    value = summary.get(key)
    return {str(name): entry for name, entry in value.items()} if isinstance(value, Mapping) else {}


def total(value: object) -> float:
    """A count, or the sum over a mapping of counts (requests per code, absences per reason)."""
    if isinstance(value, Mapping):
        return sum(total(entry) for entry in value.values())
    return number(value) or 0.0
