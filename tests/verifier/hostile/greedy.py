"""Takes memory until there is none."""

from rewardmesh.verifier.registry import Options, Verifier
from rewardmesh.verifier.verdicts import SampleFields, Verdict, passed


def verify(sample: SampleFields, options: Options) -> Verdict:
    hoard = []
    while sample.completion == "bad":
        hoard.append(bytes(2**24))
    return passed("fine")


VERIFIER = Verifier("greedy", "Hoards.", ("completion.text",), Options, verify)
