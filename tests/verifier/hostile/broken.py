"""Has a bug, and prints where it must not."""

import sys

from rewardmesh.verifier.registry import Options, Verifier
from rewardmesh.verifier.verdicts import SampleFields, Verdict, passed


def verify(sample: SampleFields, options: Options) -> Verdict:
    sys.stdout.write("this must not reach the protocol\n")
    sys.stdout.flush()
    if sample.completion == "bad":
        raise LookupError("no such thing: \ud800")
    return passed("fine \udfff")


VERIFIER = Verifier("broken", "Raises.", ("completion.text",), Options, verify)
