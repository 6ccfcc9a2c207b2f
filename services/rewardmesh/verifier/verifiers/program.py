"""Program: a check written in Python, by a person or a language model, run in a sandbox and admitted only with labelled examples.

A check is a file NAME.py with `def check(prompt, completion, references)`: the texts of the prompt's messages, the completion's text, and
the list of references. It returns a bool, a score in [0, 1], a pair of one of these and evidence, or None when it cannot tell. Beside it
lies NAME.examples.jsonl, with {"prompt", "completion", "references", "label": bool} or "score" in place of "label" on each line. At the
server's start every check is run on its examples; one that agrees with too few is refused (CARD, arXiv 2410.14660, orders rewards before
they serve; Text2Reward, Xie et al. 2023, arXiv 2309.11489, and RLCF, arXiv 2507.18624, have models write them).

A check that raises, or returns something else, gives no verdict: the policy is not to blame for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from rewardmesh.verifier.registry import LimitedOptions, in_sandboxes
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Verdict

if TYPE_CHECKING:
    from rewardmesh.verifier.sandbox.sandboxes import Sandboxes


class ProgramOptions(LimitedOptions):
    """Which check, and its limits."""

    name: str = Field(min_length=1, description="The check's name: its file's without .py.")
    seconds: float = Field(2.0, gt=0, description="Processor time of one sample; wall time is at most twice that and a second.")
    memory_bytes: int = Field(2**28, ge=2**24, description="Resident memory of one sample's check.")


async def check(sample: SampleFields, options: ProgramOptions, sandboxes: Sandboxes) -> Verdict | NoVerdict:
    """Replaced by a server that has `program_dirs`."""
    return NoVerdict(Reason.NOT_APPLICABLE, f"options.name: this server has no check {options.name!r:.60}: its program_dirs are empty")


DESCRIPTION = "A check written in Python passes the completion; it was admitted because it agrees with labelled examples."
VERIFIER = in_sandboxes("program", DESCRIPTION, ("completion.text",), ProgramOptions, check)
