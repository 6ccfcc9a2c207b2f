"""A short constitution: principles are added one by one as long as more labels are reconstructed, on pairs they were not tested on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rewardmesh.audit.judge import AuditPair
from rewardmesh.principles.asking import Asker
from rewardmesh.principles.outcome import Accuracy, Tested, accuracy
from rewardmesh.principles.settings import Settings


async def choose(
    asker: Asker,
    kept: Sequence[Tested],
    pairs: Sequence[AuditPair],
    settings: Settings,
    on_round: Callable[[Sequence[str], Accuracy], None],
) -> tuple[list[Tested], list[Accuracy]]:
    """Greedy choice among the first `shortlist` of `kept`.

    Returns:
        The chosen principles, and the accuracy before any and after each.
    """
    left = list(kept[: settings.shortlist])
    chosen: list[Tested] = []
    steps = [accuracy(await asker.label_chances(pairs, []))]
    while left and len(chosen) < settings.most_principles:
        tried = [accuracy(await asker.label_chances(pairs, [each.text for each in [*chosen, principle]])) for principle in left]
        best = max(range(len(left)), key=lambda n: tried[n].value if tried[n].judged else -1.0)
        # No verdict at all is no reason for a principle.
        if not tried[best].judged or not tried[best].value - steps[-1].value >= settings.min_gain:
            break
        chosen.append(left.pop(best))
        steps.append(tried[best])
        on_round([each.id for each in chosen], steps[-1])
    return chosen, steps
