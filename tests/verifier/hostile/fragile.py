"""Says that it runs inline, and has a bug."""

from rewardmesh.verifier.registry import Options, Verifier
from rewardmesh.verifier.verdicts import SampleFields, Verdict, passed


def verify(sample: SampleFields, options: Options) -> Verdict:
    if sample.completion == "bad":
        raise LookupError("no such thing: \ud800")
    return passed("fine \udfff", span=(2, 3) if "\n" in sample.completion else None)


VERIFIER = Verifier("fragile", "Raises.", ("completion.text",), Options, verify, inline=True)
