"""Ends its process."""

import os

from rewardmesh.verifier.registry import Options, Verifier
from rewardmesh.verifier.verdicts import SampleFields, Verdict, passed


def verify(sample: SampleFields, options: Options) -> Verdict:
    if sample.completion == "bad":
        os.abort()
    return passed("fine")


VERIFIER = Verifier("crashing", "Aborts.", ("completion.text",), Options, verify)
