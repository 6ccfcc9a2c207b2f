"""Never returns."""

from rewardmesh.verifier.registry import Options, Verifier
from rewardmesh.verifier.verdicts import SampleFields, Verdict, passed


def verify(sample: SampleFields, options: Options) -> Verdict:
    while sample.completion == "bad":
        pass
    return passed("fine")


VERIFIER = Verifier("forever", "Loops.", ("completion.text",), Options, verify)
