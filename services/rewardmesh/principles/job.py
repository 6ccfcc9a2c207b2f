"""The search: split the pairs, gather candidates, test each, choose a few, and measure them on pairs that nothing was chosen by."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from rewardmesh.audit.judge import AuditPair
from rewardmesh.client import AsyncClient
from rewardmesh.principles.asking import Asker
from rewardmesh.principles.choosing import choose
from rewardmesh.principles.outcome import Outcome, Tested, accuracy
from rewardmesh.principles.settings import Settings
from rewardmesh.principles.testing import votes_of_candidates
from rewardmesh.principles.wording import distinct, normalise

Progress = Callable[[str, int], None]
"""Called with (what is being done, pairs answered for it since the last call)."""

FEWEST_PAIRS = 8


class SearchError(ValueError):
    """Nothing can be searched; the message says what is missing."""


async def find_principles(client: AsyncClient, pairs: Sequence[AuditPair], settings: Settings, on_progress: Progress) -> Outcome:
    """Find the principles behind the labels of pairs; pairs without a decided label are left out.

    Half of the pairs propose and test, a quarter chooses, a quarter is held out.

    Raises:
        SearchError: fewer than 8 labelled pairs, or no candidate at all.
        JudgeChanged: another version of the judge answered than before.
        CallFailed: the judge refused a whole call.
    """
    labelled = [each for each in pairs if each.decided]
    if len(labelled) < FEWEST_PAIRS:
        raise SearchError(f"{len(labelled)} of {len(pairs)} pairs have a label that prefers one answer; at least {FEWEST_PAIRS} are needed")
    drawn = random.Random(settings.seed).sample(labelled, min(settings.pairs, len(labelled)))
    half, quarter = len(drawn) // 2, len(drawn) // 4
    test, choice, heldout = drawn[:half], drawn[half : half + quarter], drawn[half + quarter :]
    stage = "proposing"

    def on_answers(count: int) -> None:
        on_progress(stage, count)

    asker = Asker(client, settings, on_answers)
    given = [text for text in map(normalise, settings.candidates) if text]
    if len(given) < len(settings.candidates):
        bad = next(text for text in settings.candidates if not normalise(text))
        raise SearchError(f"candidates: {bad[:80]!r} is no principle: one sentence of at least 3 words and at most 300 characters is")
    written = await asker.proposals(test[: settings.proposals]) if settings.proposals else []
    proposed = [text for text in map(normalise, written) if text]
    candidates = distinct(given, proposed, settings.similarity)
    if not candidates:
        reasons = "".join(f"; {count} pairs had no verdict ({reason})" for reason, count in sorted(asker.absent.items()))
        raise SearchError(
            f"there is no candidate: none was given, and the judge wrote {len(written)} lines that are no principles{reasons}"
        )

    stage = "testing"
    plain = await asker.label_chances(test, [])

    def on_candidate(each: Tested) -> None:
        on_progress(f"tested {each.id}: {each.refused or f'net agreement {each.votes.net:+.2f}'}", 0)

    tested = await votes_of_candidates(asker, candidates, test, plain, settings, on_candidate)

    stage = "choosing"
    chosen, steps = await choose(
        asker,
        [each for each in tested if each.kept],
        choice,
        settings,
        lambda ids, found: on_progress(f"chosen {ids[-1]}: {found.value:.1%} of the labels reconstructed", 0),
    )

    stage = "measuring"
    before = accuracy(await asker.label_chances(heldout, []))
    after = accuracy(await asker.label_chances(heldout, [each.text for each in chosen])) if chosen else before
    return Outcome(
        tested=tuple(tested),
        constitution=tuple(each.id for each in chosen),
        choice=tuple(steps),
        before=before,
        after=after,
        sizes=(len(test), len(choice), len(heldout)),
        absent=asker.absent,
        unreadable=len(written) - len(proposed),
        judge=asker.judge,
    )
