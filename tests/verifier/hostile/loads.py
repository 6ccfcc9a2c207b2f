"""Loads something for longer than a sample may take, and perhaps hangs after it."""

import time

from rewardmesh.verifier.loading import loading
from rewardmesh.verifier.registry import LimitedOptions, Verifier
from rewardmesh.verifier.verdicts import SampleFields, Verdict, passed


def verify(sample: SampleFields, options: LimitedOptions) -> Verdict:
    """Always loads; hangs on "bad"."""
    with loading():
        time.sleep(2.0)
    if sample.completion == "bad":
        time.sleep(60)
    return passed("loaded")


VERIFIER = Verifier("loads", "Loads slowly.", ("completion.text",), LimitedOptions, verify)
