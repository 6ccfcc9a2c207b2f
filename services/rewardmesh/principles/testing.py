"""One principle at a time: does the judge, told to follow it, say what the labels say?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from rewardmesh.audit.judge import AuditPair
from rewardmesh.principles.asking import Asker
from rewardmesh.principles.outcome import Tested, Votes
from rewardmesh.principles.settings import Settings
from rewardmesh.principles.wording import Candidate


async def votes_of_candidates(
    asker: Asker,
    candidates: Sequence[Candidate],
    pairs: Sequence[AuditPair],
    plain: Sequence[float | None],
    settings: Settings,
    on_candidate: Callable[[Tested], None],
) -> list[Tested]:
    """Votes of each candidate on the pairs, best first.

    Args:
        plain: the judge's probability of each label without principles.
    """
    tested = []
    for candidate in candidates:
        chances = await asker.label_chances(pairs, [candidate.text])
        tested.append(judge_candidate(candidate, chances, plain, settings))
        on_candidate(tested[-1])
    return sorted(tested, key=lambda each: (each.kept, each.votes.net), reverse=True)


def judge_candidate(candidate: Candidate, chances: Sequence[float | None], plain: Sequence[float | None], settings: Settings) -> Tested:
    """Whether a candidate is kept, from the probabilities of the labels with it and without any principle."""
    judged = [chance for chance in chances if chance is not None]
    agree = sum(chance > 0.5 + settings.margin for chance in judged)
    against = sum(chance < 0.5 - settings.margin for chance in judged)
    votes = Votes(agree, against, len(judged) - agree - against, len(chances) - len(judged))
    moves = [abs(there - here) for there, here in zip(chances, plain, strict=True) if there is not None and here is not None]
    effect = fmean(moves) if moves else 0.0
    return Tested(candidate.id, candidate.text, candidate.source, votes, effect, _refused(votes, effect, settings))


def _refused(votes: Votes, effect: float, settings: Settings) -> str:
    if not votes.judged:
        return "no pair got a verdict"
    if effect < settings.min_effect:
        return f"the judge does not heed it: it moves verdicts by {effect:.3f}, at least {settings.min_effect:g} is wanted"
    if votes.coverage < settings.min_coverage:
        return f"it votes on {votes.coverage:.0%} of the pairs, at least {settings.min_coverage:.0%} is wanted"
    if votes.net < settings.min_net:
        return f"its net agreement with the labels is {votes.net:+.2f}, at least {settings.min_net:+.2f} is wanted"
    if votes.net_low <= 0:
        return f"its net agreement of {votes.net:+.2f} may be chance: the 95 % interval begins at {votes.net_low:+.2f}"
    return ""
