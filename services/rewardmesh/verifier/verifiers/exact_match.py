"""Exact match: whether the completion, or what follows a marker in it, is one of the references, after normalisation.

Linear in the texts, so it runs inline. A policy is responsible for writing the marker: a completion without it fails.
"""

from pydantic import Field

from rewardmesh.verifier.normalisation import NormalisationOptions, shown
from rewardmesh.verifier.registry import Verifier
from rewardmesh.verifier.verdicts import SampleFields, Verdict, failed, passed

LONGEST = 512
"""Code points of an answer that is reported as extracted."""


class ExactMatchOptions(NormalisationOptions):
    """How to find the answer, and what does not count in the comparison."""

    answer_marker: str | None = Field(
        None, min_length=1, description="Only the text behind its last occurrence is the answer; unset for the whole completion."
    )


def verify(sample: SampleFields, options: ExactMatchOptions) -> Verdict:
    """FAIL shows the answer and the references; any reference may match."""
    text = sample.completion
    marker = options.answer_marker
    if marker is not None:
        at = text.rfind(marker)
        if at < 0:
            return failed(f"the completion does not contain the marker {shown(marker)}")
        text = text[at + len(marker) :]
    answer = options.normalise(text)
    extracted = answer if len(answer) <= LONGEST else ""
    for reference in sample.references:
        if options.normalise(reference) == answer:
            return passed(f"{shown(answer)} equals reference {shown(reference)}", extracted_answer=extracted)
    wanted = " or ".join([shown(reference) for reference in sample.references[:3]])
    more = f" or {len(sample.references) - 3} others" if len(sample.references) > 3 else ""
    return failed(f"{shown(answer)} does not equal reference {wanted}{more}", extracted_answer=extracted)


VERIFIER = Verifier(
    "exact-match",
    "The completion is one of the references, after normalisation.",
    ("completion.text", "references"),
    ExactMatchOptions,
    verify,
    inline=True,
)
