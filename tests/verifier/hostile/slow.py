"""Takes 50 ms."""

import time

from rewardmesh.verifier.registry import Options, Verifier
from rewardmesh.verifier.verdicts import SampleFields, Verdict, passed


def verify(sample: SampleFields, options: Options) -> Verdict:
    time.sleep(0.05)
    return passed("fine")


VERIFIER = Verifier("slow", "Dawdles.", ("completion.text",), Options, verify)
