"""Label probabilities out of the few likeliest tokens that an endpoint lists.

A label that is not listed has an unknown probability, never zero: together all unlisted tokens have what the listed ones leave over.
When that is next to nothing beside the labels that are listed, it is given to the missing ones by halves and the error is at most
`tolerance`; else nothing honest can be said and the question is UNPARSABLE.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

ROUNDING = 1e-3
"""What half precision may add to a log-probability of 0."""


def listed_labels(listed: Iterable[tuple[str, float]], labels: Sequence[str], *, exact: bool, tolerance: float) -> list[float] | pb.Absence:
    """Log-probabilities (nats) of labels.

    Args:
        listed: the likeliest tokens' texts with their log-probabilities.
        exact: whether a token's text must be the label; else white space around it does not matter, and spellings are added up.
        tolerance: largest share, of the labels' probability, that may be unknown.
    """
    found: dict[str, float] = dict.fromkeys(labels, 0.0)
    total = 0.0
    for text, log_prob in listed:
        if not log_prob <= ROUNDING:
            return absence(pb.ABSENCE_REASON_NON_FINITE, f"the endpoint gave the log-probability {log_prob:g} for a token")
        probability = math.exp(log_prob)
        total += probability
        word = text if exact else text.strip()
        if word in found:
            found[word] += probability
    missing = [label for label in labels if found[label] == 0]
    unlisted = max(1 - total, 0.0)
    if missing and unlisted > tolerance * sum(found.values()):
        return absence(
            pb.ABSENCE_REASON_UNPARSABLE,
            f"label {missing[0]!r} is not among the tokens that the endpoint lists; the others have probability {unlisted:.2g} together",
        )
    found |= dict.fromkeys(missing, unlisted / 2 / max(len(missing), 1))
    return [math.log(found[label]) if found[label] else -math.inf for label in labels]
