"""Has much to say about everything."""

from rewardmesh.verifier.registry import Options, Verifier
from rewardmesh.verifier.verdicts import SampleFields, Verdict, passed


def verify(sample: SampleFields, options: Options) -> Verdict:
    return passed("x" * 16_000)


VERIFIER = Verifier("verbose", "Talks.", ("completion.text",), Options, verify, inline=True)
