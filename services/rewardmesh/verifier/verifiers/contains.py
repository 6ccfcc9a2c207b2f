"""Contains: whether the completion mentions a reference (or all of them), after normalisation of both.

Linear in the completion for every reference, so it runs inline. Python's search for a substring is linear in the worst case.
"""

import re
from typing import Literal

from pydantic import Field

from rewardmesh.verifier.normalisation import NormalisationOptions, shown
from rewardmesh.verifier.registry import Verifier
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Verdict, failed, passed

_TOKEN = re.compile(r"\w+|\W")


class ContainsOptions(NormalisationOptions):
    """What to look for, and what does not count in the comparison."""

    wanted: Literal["any", "all"] = Field("any", description="Whether one reference suffices or all have to occur.")
    whole_words: bool = Field(False, description='Whether a reference must not begin or end within a word: "art" is not in "party".')


def verify(sample: SampleFields, options: ContainsOptions) -> Verdict | NoVerdict:
    """INVALID_INPUT for a reference of which normalisation leaves nothing: it would be in every text."""
    text = options.normalise(sample.completion)
    if options.whole_words:
        text = _words(text)
    missing = []
    for index, reference in enumerate(sample.references):
        phrase = options.normalise(reference)
        if not phrase:
            return NoVerdict(Reason.INVALID_INPUT, f"references[{index}]: is empty after normalisation")
        found = (_words(phrase) if options.whole_words else phrase) in text
        if found and options.wanted == "any":
            return passed(f"reference {shown(reference)} is mentioned")
        if not found:
            missing.append(shown(reference))
            if options.wanted == "all":
                return failed(f"reference {missing[0]} is not mentioned")
    if options.wanted == "all":
        return passed(f"all {len(sample.references)} references are mentioned")
    return failed(f"none of the references is mentioned: {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}")


def _words(text: str) -> str:
    """`text` with a mark around every word and every other character, so that a search finds whole words only."""
    return "\0".join(["", *_TOKEN.findall(text), ""])


VERIFIER = Verifier(
    "contains",
    "The completion mentions a reference, or all of them, after normalisation.",
    ("completion.text", "references"),
    ContainsOptions,
    verify,
    inline=True,
)
