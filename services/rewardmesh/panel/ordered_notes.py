"""A deciding judge that reads notes about the answers it compares.

Notes speak of the first and the second answer, so they are wrong as soon as the judge shows the answers the other way round. The two
orders are therefore asked for separately, each with notes of its own, and put together again.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewardmesh.panel.absences import abstained
from rewardmesh.panel.asking import Ask, with_notes
from rewardmesh.panel.pairwise import both_orders, flipped, of_orders
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api

Notes = Sequence[str] | pb.Absence
"""What the judge reads with one order of one pair; or why there is nothing to read."""


async def compare_with_notes(
    ask: Ask, judge: str, pairs: Sequence[api.Pair], given: Sequence[Notes], swapped: Sequence[Notes]
) -> list[api.Preference | pb.Absence]:
    """The judge's preferences.

    Args:
        given: notes for (a, b), one entry a pair.
        swapped: the same for (b, a); not used where the caller asks for one order only.
    """
    both = both_orders(ask.options)
    shown: list[api.Pair] = []
    owners: dict[str, str] = {}
    places: list[list[int]] = []
    for pair, first, second in zip(pairs, given, swapped, strict=True):
        place = []
        for turned, notes in ((False, first), (True, second)) if both else ((False, first),):
            if not isinstance(notes, pb.Absence):
                identifier = f"{len(shown)}"
                owners[identifier] = pair.id
                place.append(len(shown))
                shown.append(with_notes(flipped(pair, identifier) if turned else _under(pair, identifier), notes))
        places.append(place)
    verdicts = await ask.under(owners).compare(judge, shown, as_given=True)
    found = []
    for first, second, place in zip(given, swapped, places, strict=True):
        missing = first if isinstance(first, pb.Absence) else second if both and isinstance(second, pb.Absence) else None
        found.append(missing if missing is not None else _together(judge, [verdicts[index] for index in place]))
    return found


def _together(judge: str, verdicts: Sequence[api.Preference | pb.Absence]) -> api.Preference | pb.Absence:
    kept = [verdict for verdict in verdicts if isinstance(verdict, api.Preference)]
    if len(kept) < len(verdicts):
        lost = next(verdict for verdict in verdicts if isinstance(verdict, pb.Absence))
        return abstained("the deciding judge gave no verdict", {judge: lost})
    return of_orders(kept[0], kept[1] if len(kept) > 1 else None)


def _under(pair: api.Pair, identifier: str) -> api.Pair:
    renamed = api.Pair()
    renamed.CopyFrom(pair)
    renamed.id = identifier
    return renamed
