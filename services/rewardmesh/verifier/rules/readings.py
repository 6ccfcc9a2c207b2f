"""The readings of a text in which constraints are checked: the text as it is, and IFEval's loose ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rewardmesh.verifier.rules.constraint import Constraint, Finding, Text, Undecided

LOOSE_READINGS = 8
"""Most readings of a loose check."""
_BLANK = "the text is blank"


def check(constraint: Constraint, readings: Sequence[Text]) -> Finding | Undecided:
    """Kept in any of the readings; else undecided when it is in any; else what was found in the first.

    A blank text keeps no constraint, as in IFEval. Only a span in the first reading means something, others have none.
    """
    first: Finding | Undecided | None = None
    undecided: Undecided | None = None
    for number, text in enumerate(readings):
        found = constraint.check(text) if text.whole.strip() else Finding(False, _BLANK)
        if isinstance(found, Undecided):
            undecided = undecided or found
        elif found.kept:
            return found if number == 0 else Finding(True, f"{found.evidence} (in a loose reading)")
        first = first or found
    assert first is not None
    return undecided or first


def strict(text: Text) -> list[Text]:
    """The text as it is."""
    return [text]


def loose(text: Text) -> list[Text]:
    """The text; without its first line, its last line, and both; and all four without asterisks (Zhou et al. 2023, arXiv 2311.07911).

    Forgives an introduction ("Sure, here it is:"), a closing remark, and Markdown's emphasis. Readings that are the same come once.
    """
    return [text._replace(whole=whole) for whole in dict.fromkeys(_variants(text.whole))]


def _variants(whole: str) -> Iterator[str]:
    lines = whole.split("\n")
    cut = [whole, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    yield from cut
    for variant in cut:
        yield variant.replace("*", "")
