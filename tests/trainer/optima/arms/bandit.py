"""One arm of a bandit was pulled: its score, unless this pull cannot be checked.

The completion is "ARM LUCK": the check of arm a fails for want of luck, when LUCK < failures[a].
"""

from __future__ import annotations

from pydantic import Field

from rewardmesh.verifier.registry import Options, Verifier
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, Verdict, failed, passed


class BanditOptions(Options):
    """The arms."""

    scores: tuple[float, ...] = Field(description="Score in [0, 1] of each arm.")
    failures: tuple[float, ...] = Field((), description="Probability of each arm that its pull cannot be checked; empty for 0.")


def verify(sample: SampleFields, options: BanditOptions) -> Verdict | NoVerdict:
    """ABSTAINED for a pull that cannot be checked."""
    arm, luck = sample.completion.split()
    if options.failures and float(luck) < options.failures[int(arm)]:
        return NoVerdict(Reason.ABSTAINED, f"arm {arm}: this pull cannot be checked")
    score = options.scores[int(arm)]
    if score in {0, 1}:
        return passed(f"arm {arm}") if score else failed(f"arm {arm}")
    return Verdict(Status.PARTIAL, score, f"arm {arm}")


VERIFIER = Verifier("bandit", "The score of a bandit's arm.", ("completion.text",), BanditOptions, verify, inline=True)
